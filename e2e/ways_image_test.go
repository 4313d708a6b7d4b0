package e2e

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/teleswap/teleswap/e2e/scene"
)

// carrying builds the command line as `make build` does, with the agent in it, under the names by which kubectl finds it, too.
func carrying(t *testing.T, w *scene.World) (dir string) {
	t.Helper()
	dir = filepath.Join(w.Home, "carrying")
	cmd := exec.CommandContext(t.Context(), filepath.Join(w.Lab.Root, "packaging", "build"), "--out", dir, "--version", scene.Version)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	for _, name := range []string{"kubectl-teleswap", "kubectl_complete-teleswap"} {
		if err := os.Symlink("teleswap", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// embedded is a world on the embedded cluster.
func embedded(t *testing.T) *scene.World {
	t.Helper()
	w := newWorld(t)
	if w.Lab.Kubectl == "" {
		t.Skip("needs the node's containerd, and a kubectl: run on the embedded cluster")
	}
	return w
}

// TestWaysImage brings the agent that the command line carries into the cluster, and swaps with it.
func TestWaysImage(t *testing.T) {
	w := embedded(t)
	w.ApplyGreet()
	dir := carrying(t, w)
	teleswap, ref := filepath.Join(dir, "teleswap"), "teleswap.dev/e2e-carried-"+w.Namespace+":dev"
	root := scene.User{}

	t.Run("load", func(t *testing.T) {
		path := "PATH=" + filepath.Dir(w.Lab.Kubectl) + ":" + os.Getenv("PATH")
		load := w.Start(scene.How{As: &root, Env: []string{path}}, teleswap, "image", "load", "--ref", ref, "--containerd", w.Lab.Containerd)
		load.WaitEnd(0)
		w.Freeze()
		args := []string{teleswap, "swap", "service-a", "--agent-image", ref, "--agent-pull-policy", "Never", "--", w.Lab.Bin.ServiceANext}
		run := w.Start(scene.How{}, args...)
		run.WaitSwapped()
		run.SignalGroup(sigint)
		run.WaitEnd(0)
	})
	t.Run("push", func(t *testing.T) {
		// The registry is this process's: the laptop of the scene would not find it.
		server := httptest.NewServer(registry.New())
		defer server.Close()
		ref := strings.TrimPrefix(server.URL, "http://") + "/team/agent:1"
		out, err := exec.CommandContext(t.Context(), teleswap, "image", "push", ref).CombinedOutput()
		if err != nil {
			t.Fatalf("image push: %v\n%s", err, out)
		}
		config, err := crane.Config(ref)
		if err != nil || !strings.Contains(string(config), "/teleswap-agent") || !strings.Contains(string(out), "--agent-image "+ref) {
			t.Errorf("%s\nthe registry has %s, %v", out, config, err)
		}
	})
	t.Run("save", func(t *testing.T) {
		file := filepath.Join(w.Home, "agent.tar")
		w.Start(scene.How{}, teleswap, "image", "save", file, "--ref", "shop.example/agent:2").WaitEnd(0)
		img, err := crane.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if layers, err := img.Layers(); err != nil || len(layers) != 1 {
			t.Errorf("the archive's image has %d layers, %v", len(layers), err)
		}
	})
	t.Run("not carried", func(t *testing.T) {
		run := w.Teleswap("image", "save", filepath.Join(w.Home, "none.tar"))
		run.WaitEnd(1)
		if !strings.Contains(run.Stderr(), "make build") {
			t.Errorf("a teleswap without an agent says:\n%s", run.Stderr())
		}
	})
	t.Run("not pulled", func(t *testing.T) {
		run := w.Teleswap("swap", "service-a", "--agent-image", "registry.invalid/nope:1", "--", "sleep", "60")
		run.WaitEnd(1)
		for _, way := range []string{"teleswap image load", "teleswap image push", "teleswap image save"} {
			if !strings.Contains(run.Stderr(), way) {
				t.Errorf("a pull that failed does not say %q:\n%s", way, run.Stderr())
			}
		}
	})
}

// TestWaysKubectl has kubectl find the command line as its own verb, help, completions and all.
func TestWaysKubectl(t *testing.T) {
	w := embedded(t)
	w.ApplyGreet()
	dir := carrying(t, w)
	how := scene.How{Env: []string{"PATH=" + dir + ":" + filepath.Dir(w.Lab.Kubectl) + ":" + os.Getenv("PATH")}}
	kubectl := func(args ...string) string {
		t.Helper()
		run := w.Start(how, append([]string{w.Lab.Kubectl}, args...)...)
		run.WaitEnd(0)
		return run.Stdout()
	}
	if help := kubectl("teleswap", "swap", "--help"); !strings.Contains(help, "kubectl teleswap swap") {
		t.Errorf("the plugin's help:\n%s", help)
	}
	for _, c := range []struct{ args, want string }{
		{"swap service-", "service-a"},
		{"swap deployment/service-a:", "deployment/service-a:app"},
		{"swap --namespace " + w.Namespace[:len(w.Namespace)-1], w.Namespace},
		{"swap --context ", w.CurrentContext()},
		{"im", "image"},
	} {
		words := append([]string{"__complete", "teleswap"}, strings.Split(c.args, " ")...)
		if got := kubectl(words...); !strings.Contains("\n"+got, "\n"+c.want) {
			t.Errorf("kubectl teleswap %s: completed by %q, want %q among them", c.args, got, c.want)
		}
	}
	run := w.Start(how, w.Lab.Kubectl, "teleswap", "swap", "service-a", "--", w.Lab.Bin.ServiceANext)
	run.WaitSwapped()
	if got := kubectl("__complete", "teleswap", "leave", ""); !strings.Contains(got, "deployment/service-a") {
		t.Errorf("the session is not among the completions of leave: %q", got)
	}
	kubectl("teleswap", "leave", "service-a")
	run.WaitEnd(0)
}
