package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// emptyWorld has a client pod and nothing to swap, and enforces the Pod Security Standard "restricted" as every world does.
func emptyWorld(t *testing.T) (*scene.World, *scene.Client) {
	t.Helper()
	w := newWorld(t)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	return w, c
}

// newProbe starts the probe where nothing was, and waits until the cluster finds it by its name.
func newProbe(w *scene.World, c *scene.Client) (*scene.Run, scene.Far) {
	w.T.Helper()
	run := w.Teleswap(append([]string{"swap", "--new", "hello", "--expose", "8080:80", "--run"}, probe(w)...)...)
	run.WaitSwapped()
	far := c.Far("http://hello")
	far.WaitLocal("local")
	return run, far
}

// needed is the path of a program of this machine; without it the test says so.
func needed(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skip("needs " + program + ": " + err.Error())
	}
	return path
}

// TestWaysNew has a Deployment and a Service that did not exist, for as long as a swap lasts.
func TestWaysNew(t *testing.T) {
	parallel(t)
	t.Run("a service", func(t *testing.T) {
		w, c := emptyWorld(t)
		run, far := newProbe(w, c)
		if got := w.DeploymentNames(); len(got) != 1 || got[0] != "hello" {
			t.Errorf("Deployments %v, want hello alone", got)
		}
		// The process has the pod's identity and network.
		if token := far.File("/var/run/secrets/kubernetes.io/serviceaccount/namespace"); token != w.Namespace {
			t.Errorf("the pod's namespace is %q to the process, want %s", token, w.Namespace)
		}
		if o := far.Do("get", "url", "http://"+c.IP+":8099/self"); !o.OK || o.Status != 200 {
			t.Errorf("the process calls the client: %+v", o)
		}
		// What is made is no target, and its name is taken.
		second := w.Teleswap("swap", "--new", "hello", "--run", "true")
		second.WaitEnd(2)
		contains(t, "the second", second.Stderr(), "is already swapped by")
		if list := w.Output("list"); strings.Contains(list, "hello") {
			t.Errorf("what is made for a session can be swapped:\n%s", list)
		}
		run.SignalGroup(sigint)
		run.WaitEnd(128 + int(sigint))
		contains(t, "the end", run.Stderr(), "hello:app is gone, as before")
		w.WaitUnchanged()
	})
	t.Run("no port", func(t *testing.T) {
		w, c := emptyWorld(t)
		run := w.Teleswap("swap", "--new", "once", "--run", needed(t, "curl"), "-sf", "http://"+c.IP+":8099/self")
		run.WaitEnd(0)
		contains(t, "curl's output", run.Stdout(), `"Hostname":"client"`)
		contains(t, "standard error", run.Stderr(), "no Service is made", "once:app is gone")
		w.WaitUnchanged()
	})
	t.Run("names that are taken", func(t *testing.T) {
		w := newWorld(t)
		w.ApplyGreet()
		w.WaitAvailable()
		w.Freeze()
		run := w.Teleswap("swap", "--new", "service-a", "--run", "true")
		run.WaitEnd(2)
		contains(t, "a Deployment's name", run.Stderr(), "deployment/service-a exists", "teleswap swap deployment/service-a")
		run = w.Teleswap("swap", "--new", "hello", "--serviceaccount", "robot", "--run", "true")
		run.WaitEnd(2)
		contains(t, "an unknown ServiceAccount", run.Stderr(), `serviceaccount "robot" not found`)
	})
	for _, tc := range []struct {
		name    string
		restore func(*scene.World)
	}{
		{"both killed, next start", func(w *scene.World) { w.Output("status") }},
		{"both killed, restore elsewhere", func(w *scene.World) {
			elsewhere := filepath.Join(w.Home, "elsewhere")
			env := []string{"XDG_STATE_HOME=" + elsewhere, "XDG_RUNTIME_DIR=" + elsewhere, "HOME=" + elsewhere}
			w.File("elsewhere/.keep", "")
			w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "restore", "hello").WaitEnd(0)
			w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "quit").Wait() // there may be none
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := emptyWorld(t)
			run, _ := newProbe(w, c)
			killBoth(w, run)
			tc.restore(w)
			w.WaitUnchanged()
		})
	}
}
