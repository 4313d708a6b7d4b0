package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// progress are lines that tell a step, and are no message.
var progress = regexp.MustCompile(`^([✓✗·!] |restoring: |restored: )`)

// message is what standard error says besides the steps.
func message(run *scene.Run) string {
	var lines []string
	for line := range strings.Lines(run.Stderr()) {
		if line = strings.TrimSpace(line); line != "" && !progress.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// refused checks that the command ended with the status and one message that has all
// the parts, and nothing else.
func refused(t *testing.T, run *scene.Run, want int, parts ...string) {
	t.Helper()
	if got := run.Wait(); got != want {
		t.Errorf("exit status %d, want %d; stderr:\n%s", got, want, run.Stderr())
	}
	if out := run.Stdout(); out != "" {
		t.Errorf("standard output is %q, want nothing", out)
	}
	text := message(run)
	contains(t, "the message", text, parts...)
	if n := strings.Count(text, "\n") + 1; n > 4 || len(text) > 2000 {
		t.Errorf("the message has %d lines, %d bytes; want one, short:\n%s", n, len(text), text)
	}
	if n := strings.Count(text, "teleswap: "); n > 1 {
		t.Errorf("%d messages, want one:\n%s", n, text)
	}
	for _, noise := range []string{"goroutine ", "Usage:", "rpc error", "code = ", "context deadline exceeded", "context canceled"} {
		if strings.Contains(text, noise) {
			t.Errorf("the message has %q in it:\n%s", noise, text)
		}
	}
}

// untouched fails the test if anybody wrote to what the namespace has, even if it was
// undone at once.
func untouched(t *testing.T, w *scene.World, writes *scene.Writes) {
	t.Helper()
	for _, write := range writes.Stop() {
		t.Errorf("the cluster was changed:\n%s", write)
	}
	if diff := w.Unchanged(); diff != "" {
		t.Errorf("the cluster is changed:\n%s", diff)
	}
}

// TestBadInputBeforeAnyChange is everything that is wrong before the first write.
func TestBadInputBeforeAnyChange(t *testing.T) {
	w := newWorld(t)
	w.Apply(portsScene)
	w.Apply(noPortScene)
	w.Apply(strings.NewReplacer("name: worker", "name: idle", "app: worker", "app: idle", "replicas: 1", "replicas: 0").Replace(noPortScene))
	w.WaitAvailable()
	w.Freeze()
	ns := w.Namespace
	run := func(args ...string) func() *scene.Run {
		return func() *scene.Run { return w.Teleswap(args...) }
	}
	in := func(env ...string) func() *scene.Run {
		return func() *scene.Run {
			return w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "swap", "worker", "--", "sleep", "9")
		}
	}
	bogus := w.KubeconfigOf("bogus", scene.Login{Token: "expired.or.wrong"})
	for _, tc := range []struct {
		name   string
		run    func() *scene.Run
		status int
		parts  []string
	}{
		{"unknown deployment", run("swap", "worke", "--", "sleep", "9"), 2, []string{"worke", ns, "worker", "teleswap list"}},
		{"unknown deployment, nothing near", run("swap", "xyzzy-quux", "--", "sleep", "9"), 2, []string{"xyzzy-quux", ns, "teleswap list"}},
		{"unknown namespace", run("swap", "-n", "no-such-namespace", "worker", "--", "sleep", "9"), 2, []string{"no-such-namespace", "--namespace"}},
		{"unknown container", run("swap", "ports:ap", "--", "sleep", "9"), 2, []string{`ap`, "ports", "app", "sidecar"}},
		{"several containers", run("swap", "ports", "--", "sleep", "9"), 2, []string{"ports", "app", "sidecar", "ports:app"}},
		{"unknown kind", run("swap", "gizmo/worker", "--", "sleep", "9"), 2, []string{"gizmo", "deployment"}},
		{"replicas 0", run("swap", "idle", "--", "sleep", "9"), 2, []string{"idle", "0", "kubectl", "scale"}},
		{"command not found", run("swap", "worker", "--", "no-such-command"), 2, []string{"no-such-command", "PATH"}},
		{"command not executable", run("swap", "worker", "--", "/etc/passwd"), 2, []string{"/etc/passwd"}},
		{"no command", run("swap", "worker"), 2, []string{"command", "--"}},
		{"no target", run("swap", "--", "sleep", "9"), 2, []string{"deployment"}},
		{"two targets", run("swap", "worker", "--deployment", "ports", "--", "sleep", "9"), 2, []string{"worker", "ports"}},
		{"unknown flag", run("swap", "--replicas", "2", "worker", "--", "sleep", "9"), 2, []string{"--replicas"}},
		{"unknown verb", run("swpa", "worker"), 2, []string{"swpa", "swap"}},
		{"unknown context", run("swap", "--context", "moon", "worker", "--", "sleep", "9"), 2, []string{"moon", "context"}},
		{"kubeconfig missing", in("KUBECONFIG=/no/such/kubeconfig"), 1, []string{"/no/such/kubeconfig", "kubeconfig"}},
		{"no cluster at all", in("KUBECONFIG="), 1, []string{"kubeconfig"}},
		{"cluster does not answer", run("swap", "--server", "https://127.0.0.1:1", "worker", "--", "sleep", "9"), 1, []string{"127.0.0.1:1", "refused"}},
		{"expired credentials", run("swap", "--kubeconfig", bogus, "worker", "--", "sleep", "9"), 1, []string{"credentials", "log in"}},
		{"leave what is not swapped", run("leave", "worker"), 1, []string{"worker", "status"}},
		{"bad output format", run("status", "-o", "toml"), 2, []string{"toml", "json"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			writes := w.WatchWrites()
			refused(t, tc.run(), tc.status, tc.parts...)
			untouched(t, w, writes)
		})
	}
}

// TestBadInputMissingPermission takes one permission after the other from a Role that would do, and wants
// to be told which it was, before anything is written.
func TestBadInputMissingPermission(t *testing.T) {
	w := newWorld(t)
	w.Apply(noPortScene)
	without := []struct{ name, resource, verb string }{
		{"no-secrets", "secrets", "create"},
		{"no-create", "deployments", "create"},
		{"no-patch", "deployments", "patch"},
		{"no-pods", "pods", "list"},
	}
	for _, tc := range without {
		w.Apply(account(tc.name) + roleWithout(tc.name, tc.resource, tc.verb) + roleBinding(tc.name, "Role", tc.name))
	}
	w.WaitAvailable()
	w.Freeze()
	for _, tc := range without {
		t.Run(tc.name, func(t *testing.T) {
			config := w.KubeconfigOf(tc.name, w.Token(tc.name))
			writes := w.WatchWrites()
			run := w.Teleswap("swap", "--kubeconfig", config, "worker", "--", "sleep", "9")
			refused(t, run, 1, tc.verb, tc.resource, w.Namespace)
			untouched(t, w, writes)
		})
	}
}

// TestBadInputImageCannotBePulled gets the pod's own event, and the cluster back as it was; so does
// an image that can be pulled and has no agent in it.
func TestBadInputImageCannotBePulled(t *testing.T) {
	w, c := webWorld(t)
	load := c.StartLoad("http://web/api")
	for _, tc := range []struct {
		name  string
		flags []string
		parts []string
	}{
		{"registry refuses", []string{"--agent-image", "127.0.0.1:1/teleswap/agent:none"}, []string{"127.0.0.1:1/teleswap/agent:none", "pull", "refused", "--agent-image"}},
		{"never pulled", []string{"--agent-image", "teleswap.dev/none:none", "--agent-pull-policy", "Never"}, []string{"teleswap.dev/none:none", "ErrImageNeverPull", "--agent-image"}},
		{"no agent in it", []string{"--agent-image", w.Lab.Images.ServiceB}, []string{w.Lab.Images.ServiceB, "--agent-image"}},
		{"not a name", []string{"--agent-image", "Not A Name"}, []string{"Not A Name", "--agent-image"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run := w.Teleswap(append(append([]string{"swap"}, tc.flags...), append([]string{"web", "--"}, probe(w)...)...)...)
			status := run.Wait()
			if status != 1 && status != 2 {
				t.Errorf("exit status %d, want 1 or 2", status)
			}
			refused(t, run, status, tc.parts...)
			w.WaitUnchanged()
		})
	}
	if r := load.Stop(); r.Failed != 0 || r.Swapped != 0 {
		t.Errorf("callers noticed: %+v", r)
	}
}

// TestBadInputAlreadySwapped swaps what is swapped: by the same daemon, and from another laptop.
func TestBadInputAlreadySwapped(t *testing.T) {
	w, c := webWorld(t)
	run, far := swapWeb(w, c)
	id := readStatus(t, w).Sessions[0].ID
	since := readStatus(t, w).Sessions[0].Since[:len("2006-01-02")]
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	writes := w.WatchWrites()
	// The user has no name in this machine's books, so it may be the number.
	by := "by dev@" + host
	if !strings.Contains(w.Output("list"), "dev@"+host) {
		by = fmt.Sprintf("by uid-%d@%s", w.User.UID, host)
	}
	if w.User.UID == 0 { // on a cluster of one's own, by whoever runs the tests
		by = "by root@" + host
	}
	parts := []string{"web", "already", by, id, since}

	refused(t, w.Teleswap("swap", "web", "--", "sleep", "9"), 2, append(parts, "teleswap leave")...)
	home := w.RootHome()
	elsewhere := scene.How{As: &scene.User{UID: 0}, Env: []string{
		"HOME=" + home, "XDG_RUNTIME_DIR=" + home + "/run", "XDG_STATE_HOME=" + home + "/state", "USER=somebody-else",
	}}
	other := w.Start(elsewhere, w.Lab.Bin.Teleswap, "swap", "web", "--", "sleep", "9")
	refused(t, other, 2, append(parts, "teleswap restore")...)
	w.Start(elsewhere, w.Lab.Bin.Teleswap, "quit").Wait() // whether it had a daemon is not the question
	for _, write := range writes.Stop() {
		t.Errorf("the cluster was changed:\n%s", write)
	}
	if self := far.Self(); self.Name != "local" {
		t.Errorf("the swap that was there does not answer any more: %+v", self)
	}
	far.Exit(0)
	run.WaitEnd(0)
}

// TestBadInputPortNeverOpened is a warning: it says what the process does listen on, and the swap waits until
// the port is opened after all.
func TestBadInputPortNeverOpened(t *testing.T) {
	w, c := webWorld(t)
	run := w.Teleswap("swap", "web", "--", w.Lab.Bin.Probe, "-listen", ":3000", "-listen", "127.0.0.1:4000", "-name", "local")
	contains(t, "the warning", run.WaitStderr(`^! .*3000.*4000`), "8080")
	if run.Exited() {
		t.Fatalf("ended, want that it waits; stderr:\n%s", run.Stderr())
	}
	if strings.Contains(run.Stderr(), "swapped:") {
		t.Errorf("swapped, though nothing listens on 8080:\n%s", run.Stderr())
	}
	c.Far("http://web").WaitLocal("original")
	// Ctrl-C while it waits ends it like any other.
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
	// Once it ends, that ports are closed is nothing to warn of.
	_, after, _ := strings.Cut(run.Stderr(), "3000, 4000")
	if strings.Contains(after, "\n! ") {
		t.Errorf("warned again:\n%s", run.Stderr())
	}
}
