package e2e

import (
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestSwapPorts swaps one of two containers. Its two ports are behind a Service with other
// ports, which knows one by name and one by number; the other container goes on.
func TestSwapPorts(t *testing.T) {
	w := newWorld(t)
	w.Apply(portsScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	for _, target := range []string{"ports:app", "deployment/ports:app"} {
		run := w.Teleswap("swap", target, "--", w.Lab.Bin.Probe, "-listen", ":8080", "-listen", ":9090", "-name", "local")
		run.WaitSwapped()
		for base, port := range map[string]string{"http://ports": ":8080", "http://ports:9999": ":9090"} {
			if self := c.Far(base).WaitLocal("local"); !strings.HasSuffix(self.Listening, port) {
				t.Errorf("%s leads to %s, want %s", base, self.Listening, port)
			}
		}
		c.Far("http://ports:7000").WaitLocal("sidecar")
		agents := w.Pods(scene.SessionLabel)
		if len(agents) != 1 || len(agents[0].Spec.Containers) != 2 {
			t.Errorf("agent pods %d, want one with two containers", len(agents))
		}
		run.SignalGroup(sigint)
		run.WaitEnd(128 + int(sigint))
		w.WaitUnchanged()
	}
}

// TestSwapWaitsForAllPorts opens one of two ports: that is not enough.
func TestSwapWaitsForAllPorts(t *testing.T) {
	w := newWorld(t)
	w.Apply(portsScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	run := w.Teleswap("swap", "ports:app", "--", w.Lab.Bin.Probe, "-listen", ":8080", "-name", "local", "-listen", ":3000")
	contains(t, "the warning", run.WaitStderr(`^! .*9090`), "3000")
	if strings.Contains(run.Stderr(), "swapped:") {
		t.Error("swapped, though port 9090 is closed")
	}
	for _, p := range w.Pods(scene.SessionLabel) {
		if scene.Ready(p) {
			t.Error("the agent is Ready, though port 9090 is closed")
		}
	}
	c.Far("http://ports").WaitLocal("original")
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
}
