package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/teleswap/teleswap/e2e/scene"
)

// carrying builds the command line as `make build` does, with the agent in it.
func carrying(t *testing.T, w *scene.World) (dir string) {
	t.Helper()
	dir = filepath.Join(w.Home, "carrying")
	cmd := exec.CommandContext(t.Context(), filepath.Join(w.Lab.Root, "packaging", "build"), "--out", dir, "--version", scene.Version)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
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
	t.Run("push", func(t *testing.T) { pushAndPull(t, w, teleswap) })
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

// pushAndPull brings the carried agent into a registry, which the cluster pulls it from: once by the flag, once by a project file.
func pushAndPull(t *testing.T, w *scene.World, teleswap string) {
	t.Helper()
	var pulls atomic.Int32
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	ref := w.ServeLoopbacks(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.UserAgent(), "containerd/") && strings.Contains(req.URL.Path, "/manifests/") {
			pulls.Add(1)
		}
		reg.ServeHTTP(rw, req)
	})) + "/team/agent:1"
	push := w.Start(scene.How{}, teleswap, "image", "push", ref)
	push.WaitEnd(0)
	contains(t, "what push says", push.Stderr(), "--agent-image "+ref)

	swaps := func(run *scene.Run) {
		t.Helper()
		run.WaitStderr(`swapped: `)
		for _, p := range w.Pods(scene.SessionLabel) {
			if agent := p.Spec.Containers[0]; agent.Image != ref || !scene.Ready(p) {
				t.Errorf("the agent is of image %s, ready: %v", agent.Image, scene.Ready(p))
			}
		}
		if pulls.Swap(0) == 0 {
			t.Error("the cluster has not asked the registry")
		}
		run.SignalGroup(sigint)
		run.WaitEnd(0)
	}
	swaps(w.Start(scene.How{}, teleswap, "swap", "service-a", "--agent-image", ref, "--", w.Lab.Bin.ServiceANext))
	file := w.File("pulled/.teleswap.yaml", fmt.Sprintf("sessions:\n  a: {target: service-a, agent-image: %q, agent-pull-policy: Always, command: [%q]}\n", ref, w.Lab.Bin.ServiceANext))
	swaps(w.Start(scene.How{Dir: filepath.Dir(file)}, teleswap, "up"))
}

// krewVersion is pinned: it is built here.
const krewVersion = "v0.5.0"

// byKrew has krew install what `make release` makes, from its archive and manifest, without a network. It returns the PATH by which
// kubectl finds it.
func byKrew(t *testing.T, w *scene.World) string {
	t.Helper()
	dist := filepath.Join(w.Home, "dist")
	release := exec.CommandContext(t.Context(), filepath.Join(w.Lab.Root, "packaging", "release"), "--out", dist, "--version", scene.Version,
		"--only", runtime.GOOS+"/"+runtime.GOARCH, "--agent-arch", runtime.GOARCH)
	if out, err := release.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", release, err, out)
	}
	archives, err := filepath.Glob(filepath.Join(dist, "*.tar.gz"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("the archives: %v, %v", archives, err)
	}
	krew, err := os.ReadFile(goTool(t, "sigs.k8s.io/krew", krewVersion, "cmd/krew"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(w.File("bin/kubectl-krew", string(krew)), 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(w.Home, ".krew", "bin")
	path := "PATH=" + strings.Join([]string{bin, filepath.Join(w.Home, "bin"), filepath.Dir(w.Lab.Kubectl), os.Getenv("PATH")}, ":")
	install := w.Start(scene.How{Env: []string{path, "KREW_NO_UPGRADE_CHECK=1"}},
		w.Lab.Kubectl, "krew", "install", "--manifest="+filepath.Join(dist, "teleswap.yaml"), "--archive="+archives[0])
	install.WaitEnd(0)
	contains(t, "krew's output", install.Stderr(), "Installed plugin: teleswap", "kubectl_complete-teleswap")
	// What its caveats say.
	if err := os.Symlink(filepath.Join(bin, "kubectl-teleswap"), filepath.Join(w.Home, "bin", "kubectl_complete-teleswap")); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWaysKubectl has krew install the command line, and kubectl find it as its own verb, help, completions and all.
func TestWaysKubectl(t *testing.T) {
	w := embedded(t)
	w.ApplyGreet()
	how := scene.How{Env: []string{byKrew(t, w)}}
	kubectl := func(args ...string) string {
		t.Helper()
		run := w.Start(how, append([]string{w.Lab.Kubectl}, args...)...)
		run.WaitEnd(0)
		return run.Stdout()
	}
	contains(t, "the plugin's version", kubectl("teleswap", "version"), scene.Version)
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
		completes(w, "kubectl teleswap "+c.args, func() string { return kubectl(words...) }, c.want)
	}
	run := w.Start(how, w.Lab.Kubectl, "teleswap", "swap", "service-a", "--", w.Lab.Bin.ServiceANext)
	run.WaitSwapped()
	w.Eventually("kubectl teleswap leave to complete", func() string { // an id, and what it stands for
		if out := kubectl("__complete", "teleswap", "leave", ""); !strings.Contains(out, "deployment/service-a") {
			return "got " + out
		}
		return ""
	})
	kubectl("teleswap", "leave", "service-a")
	run.WaitEnd(0)
}
