package e2e

import (
	"path/filepath"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestSwapReadyOnlyWhenListening holds the local process back before it listens: until
// then the agent must not be Ready, the original must stay, and every request must be its.
func TestSwapReadyOnlyWhenListening(t *testing.T) {
	w, c := webWorld(t)
	gate := filepath.Join(w.Home, "gate")
	load := c.StartLoad("http://web/api")
	run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w, "-drain", "-gate", gate)...)...)

	run.WaitStderr(`✓ +start`) // the process runs, and does not listen yet
	before := load.Now()
	load.WaitOriginal(100)
	agents := w.Pods(scene.SessionLabel)
	if len(agents) != 1 || scene.Ready(agents[0]) {
		t.Errorf("%d agent pods, Ready: %v; want one that is not Ready", len(agents), len(agents) > 0 && scene.Ready(agents[0]))
	}
	if d := w.Deployment("web"); *d.Spec.Replicas != 2 || d.Status.ReadyReplicas != 2 {
		t.Errorf("original has %d replicas, %d Ready, want 2 and 2 until the local process listens", *d.Spec.Replicas, d.Status.ReadyReplicas)
	}
	if now := load.Now(); now.Swapped != 0 || now.Original <= before.Original {
		t.Errorf("before the local process listens: %+v", now)
	}

	w.File("gate", "")
	run.WaitSwapped()
	load.WaitSwapped(100)
	w.Eventually("the original to be scaled to 0", func() string {
		if n := len(w.Pods("app=web,!" + scene.SessionLabel)); n != 0 {
			return "pods are left"
		}
		return ""
	})
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	load.WaitOriginal(100)
	load.Stop().NoneFailed(t)
}

// TestRestoreIsCompleteWhenItSaysSo looks at the very moment in which the command ends: the originals
// serve, and nothing of ours is there any more.
func TestRestoreIsCompleteWhenItSaysSo(t *testing.T) {
	w, c := webWorld(t)
	template := w.RawTemplate("web")
	run, far := swapWeb(w, c)
	if got := *w.Deployment("web").Spec.Replicas; got != 0 {
		t.Errorf("during the swap the original has %d replicas, want 0", got)
	}
	if len(w.Pods(scene.SessionLabel)) != 1 {
		t.Errorf("during the swap there are %d agent pods, want 1", len(w.Pods(scene.SessionLabel)))
	}
	far.Exit(0)
	run.WaitEnd(0)
	if d := w.Deployment("web"); *d.Spec.Replicas != 2 || d.Status.ReadyReplicas != 2 {
		t.Errorf("restored, but %d replicas, %d Ready; want 2 and 2", *d.Spec.Replicas, d.Status.ReadyReplicas)
	}
	if left := w.Left(); left != "" {
		t.Errorf("restored, but left: %s", left)
	}
	if after := w.RawTemplate("web"); after != template {
		t.Errorf("pod template before:\n%s\nafter:\n%s", template, after)
	}
	contains(t, "stderr", run.Stderr(), "restored:")
}

// TestSwapWaitsForAgent has an agent that takes its time between its container's start and its
// first listening, as on a busy node.
func TestSwapWaitsForAgent(t *testing.T) {
	w, c := webWorld(t)
	run := w.Teleswap(append([]string{"swap", "--agent-image", w.Lab.Images.SlowAgent, "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	c.Far("http://web").WaitLocal("local")
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
}
