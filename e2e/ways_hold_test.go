package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// ideProbe is the probe as an IDE starts it: outside of any sandbox, on a port of the laptop.
func ideProbe(w *scene.World, port, name string) []string {
	return []string{w.Lab.Bin.Probe, "-listen", "127.0.0.1:" + port, "-name", name, "-drain"}
}

// doors are those of the world's sessions.
func doors(t *testing.T, w *scene.World) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(w.Home), "run", "teleswap", "*.door"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestWaysHold holds a swap for a process that the user starts himself: on the laptop, again, and in the sandbox.
func TestWaysHold(t *testing.T) {
	const port = "18741"
	w, c := webWorld(t)
	variables := filepath.Join(w.Home, "web.json")
	run := w.Teleswap("swap", "web", "--expose", port+":8080", "--env-json", variables)
	run.WaitStderr(`held for a process that you start yourself.*its variables are in ` + variables)
	run.WaitStderr(`waiting: nothing listens on port ` + port + ` yet$`)
	data, err := os.ReadFile(variables)
	if err != nil {
		t.Fatal(err)
	}
	var env map[string]string
	if err := json.Unmarshal(data, &env); err != nil || env["ENV"] != "test" || env["SECRET_WORD"] != secretWord {
		t.Errorf("the variables for the IDE: %v, %v", env["ENV"], err)
	}
	ide := w.Start(scene.How{}, ideProbe(w, port, "ide")...)
	run.WaitSwapped()
	far := c.Far("http://web")
	if self := far.WaitLocal("ide"); !strings.HasPrefix(self.Peer, "127.0.0.1:") {
		t.Errorf("a process of the laptop's sees %s as its client", self.Peer)
	}

	// A request that comes while it is started again waits.
	ide.Signal(sigkill)
	ide.Wait()
	again := w.Start(scene.How{}, append([]string{"/bin/sh", "-c", `sleep 1; exec "$@"`, "sh"}, ideProbe(w, port, "again")...)...)
	if self := far.Self(); self.Name != "again" {
		t.Errorf("answered by %+v", self)
	}

	inside := w.Teleswap(append([]string{"exec", "web", "--"}, w.Lab.Bin.Probe, "-listen", ":"+port, "-name", "inside")...)
	if self := far.WaitLocal("inside"); strings.HasPrefix(self.Peer, "127.") {
		t.Errorf("a process in the sandbox sees %s as its client", self.Peer)
	}
	inside.Signal(sigterm)
	inside.Wait()
	load := c.StartLoad("http://web/api")
	load.WaitSwapped(50)
	run.SignalGroup(sigint)
	run.WaitEnd(0)
	load.WaitOriginal(50)
	load.Stop().NoneFailed(t)
	w.WaitUnchanged()

	t.Log("the holder is killed")
	run = w.Teleswap("swap", "web", "--expose", port+":8080")
	run.WaitSwapped()
	far.WaitLocal("again")
	run.Signal(sigkill)
	w.WaitUnchanged()
	w.Eventually("the session's door to be away", func() string { return strings.Join(doors(t, w), " ") })
	again.Signal(sigterm)
	again.Wait()
}

// TestWaysDetach gives the terminal back once the swap is active.
func TestWaysDetach(t *testing.T) {
	w, c := webWorld(t)
	run := w.Teleswap(append([]string{"swap", "-d", "web", "--"}, probe(w)...)...)
	run.WaitEnd(0)
	id := strings.TrimSpace(run.Stdout())
	contains(t, "standard error", run.Stderr(), "swapped: ", "in the background: `teleswap leave "+id+"` ends it; its output goes to ")
	_, output, _ := strings.Cut(strings.TrimSpace(run.Stderr()), "its output goes to ")
	if info, err := os.Stat(output); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the output: %v, %v", info, err)
	}
	c.Far("http://web").WaitLocal("local")
	contains(t, "status", w.Output("status"), id, "active")
	w.Output("leave", id)
	w.WaitUnchanged()
	w.Eventually("the last word in the background's output", func() string {
		if text, err := os.ReadFile(output); err != nil || !strings.Contains(string(text), "restored: ") {
			return fmt.Sprintf("%s, %v", text, err)
		}
		return ""
	})

	for _, tc := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"ends before it is active", []string{"web", "--", "/bin/sh", "-c", "tty; exit 3"}, 3, "not a tty"},
		{"ends well before it is active", []string{"web", "--", "/bin/true"}, 1, "ended before it was active"},
		{"no such target", []string{"wbe", "--", "/bin/true"}, 2, "wbe"},
		{"no such command", []string{"web", "--", "no-such-command"}, 2, "no-such-command"},
	} {
		run := w.Teleswap(append([]string{"swap", "-d"}, tc.args...)...)
		run.WaitEnd(tc.status)
		contains(t, tc.name, run.Stderr(), tc.says)
		if run.Stdout() != "" {
			t.Errorf("%s: standard output %q", tc.name, run.Stdout())
		}
	}
	w.WaitUnchanged()
}

// TestWaysExec enters the sandbox of a session that has its process.
func TestWaysExec(t *testing.T) {
	w, c := webWorld(t)
	none := w.Teleswap("exec", "web", "--", "true")
	none.WaitEnd(1)
	contains(t, "without a session", none.Stderr(), `there is no session "web"`)
	run, far := swapWeb(w, c)
	script := `hostname; echo "$ENV|$MINE|$HOME"; pwd; getent ahostsv4 web >/dev/null && echo resolves
cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; cat; echo to stderr >&2; exit 7`
	dir := w.CopyDir("examples/greet/internal", "elsewhere")
	in := w.Start(scene.How{Dir: dir, Stdin: strings.NewReader("typed\n"), Env: []string{"MINE=mine"}},
		w.Lab.Bin.Teleswap, "exec", "web", "--", "/bin/sh", "-c", script)
	in.WaitEnd(7)
	want := far.Self().Hostname + "\ntest||" + w.Home + "\n" + dir + "\nresolves\n" + w.Namespace + "\ntyped\n"
	if got := in.Stdout(); got != want {
		t.Errorf("standard output %q, want %q", got, want)
	}
	contains(t, "standard error", in.Stderr(), "to stderr")
	// The process itself is beside it.
	beside := w.Output("exec", "--", "/bin/bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /self HTTP/1.0\r\n\r\n' >&3; cat <&3`)
	contains(t, "the process beside", beside, `"name":"local"`)

	for _, tc := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"near name", []string{"exec", "webb", "--", "true"}, 1, "did you mean web?"},
		{"no command", []string{"exec", "web"}, 2, "which command"},
		{"nothing after --", []string{"exec", "web", "--"}, 2, "which command"},
		{"no --", []string{"exec", "web", "true"}, 2, "write -- in front"},
		{"two sessions", []string{"exec", "web", "web", "--", "true"}, 2, "one session"},
		{"another namespace", []string{"exec", "-n", "elsewhere", "web", "--", "true"}, 1, `there is no session "web"`},
		{"command that is not there", []string{"exec", "web", "--", "no-such-command"}, 1, "no-such-command: command not found"},
		{"shell with a command", []string{"shell", "web", "true"}, 2, "one argument"},
	} {
		run := w.Teleswap(tc.args...)
		run.WaitEnd(tc.status)
		contains(t, tc.name, run.Stderr(), tc.says)
	}

	// A signal is the command's; what is killed leaves nothing; and all ends with the session.
	one := w.Teleswap("exec", "web", "--", "/bin/sh", "-c", `trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done`)
	one.WaitStdout("up")
	one.Signal(sigterm)
	one.WaitEnd(9)
	sleeping := func() (n int) {
		for _, p := range w.Processes() {
			if p.Args[0] == "sleep" && p.Args[1] == "4242" {
				n++
			}
		}
		return n
	}
	two := w.Teleswap("exec", "web", "--", "sleep", "4242")
	w.Eventually("the command to run", func() string { return fewer(sleeping(), 1) })
	two.Signal(sigkill)
	two.Wait()
	w.Eventually("the killed command's own to be ended", func() string {
		if sleeping() > 0 {
			return "it runs"
		}
		return ""
	})
	three := w.Teleswap("exec", "web", "--", "sleep", "4242")
	w.Eventually("the command to run", func() string { return fewer(sleeping(), 1) })
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	three.WaitEnd(128 + 1) // SIGHUP
	w.WaitUnchanged()
}

func fewer(got, want int) string {
	if got < want {
		return fmt.Sprintf("%d, want %d", got, want)
	}
	return ""
}

// TestWaysShell types into a shell in a session's sandbox, beside its process.
func TestWaysShell(t *testing.T) {
	w, c := webWorld(t)
	run, far := swapWeb(w, c)
	tty := newTerminal(t, w)
	in := w.Start(scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm", "PS1=$ ", "SHELL=/bin/bash"}}, w.Lab.Bin.Teleswap, "shell", "web")
	_ = tty.slave.Close() // the command has its own
	tty.waitFor(w, "in the place of deployment/web")
	tty.enter(t, "echo I am $(hostname), $ENV\n")
	tty.waitFor(w, "I am "+far.Self().Hostname+", test")
	resize(t, tty, 41, 83)
	w.Eventually("the new size", func() string { // it and the keys go separate ways
		tty.enter(t, "stty size\n")
		if shown := tty.text(); !strings.Contains(shown, "41 83") {
			return "shown: " + shown
		}
		return ""
	})
	tty.enter(t, "sleep 4243\n")
	child := func(is func([]scene.Process) bool) func() string {
		return func() string {
			if is(slices.DeleteFunc(w.Processes(), func(p scene.Process) bool { return p.Args[0] != "sleep" || p.Args[1] != "4243" })) {
				return ""
			}
			return "shown: " + tty.text()
		}
	}
	w.Eventually("the shell's own child", child(func(ps []scene.Process) bool { return len(ps) == 1 }))
	tty.enter(t, "\x1a") // Ctrl-Z
	tty.waitFor(w, "Stopped")
	tty.enter(t, "fg\n")
	// Before the child has the terminal back, Ctrl-C is the shell's; it goes on after that.
	w.Eventually("fg to bring the child back", child(func(ps []scene.Process) bool { return len(ps) == 1 && !ps[0].Stopped() }))
	tty.enter(t, "\x03")
	w.Eventually("the shell's child to be gone", child(func(ps []scene.Process) bool { return len(ps) == 0 }))
	tty.enter(t, "echo still $((40+2)) here; exit 5\n")
	in.WaitEnd(5)
	contains(t, "the terminal", tty.text(), "still 42 here")
	if strings.Contains(tty.text(), "no job control") {
		t.Errorf("the shell has no job control:\n%s", tty.text())
	}
	far.WaitLocal("local") // none of the keys was for it
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
}

// manyScene are targets of one port, each with an account and a variable of its own.
func manyScene(names []string) string {
	var all strings.Builder
	for _, name := range names {
		text := probeDeployment(name, `
        args: [-listen, ":8080", -name, original]
        env: [{name: WHO, value: `+name+`}]
        ports: [{containerPort: 8080}]`)
		text = strings.Replace(text, "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 1\n      serviceAccountName: "+name, 1)
		fmt.Fprintf(&all, "%s---\n%s---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  selector: {app: %s}\n  ports: [{port: 80, targetPort: 8080}]\n",
			account(name), text, name, name)
	}
	return all.String()
}

// TestWaysMany has ten swaps at once, by ten commands of one user: the same names in two namespaces, all on one port.
func TestWaysMany(t *testing.T) {
	names := []string{"one", "two", "three", "four", "five"}
	w, other := newWorld(t), stage.lab.NewWorld(t)
	for _, in := range []*scene.World{w, other} {
		in.Apply(manyScene(names))
	}
	c := w.NewClient()
	for _, in := range []*scene.World{w, other} {
		in.WaitAvailable()
		in.Freeze()
	}
	there, err := os.ReadFile(other.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := w.File("other", string(there))
	var runs []*scene.Run
	for _, name := range names {
		for _, more := range [][]string{nil, {"--kubeconfig", kubeconfig}} {
			args := append([]string{"swap", name}, more...)
			runs = append(runs, w.Teleswap(append(append(args, "--"), probe(w)...)...))
		}
	}
	for _, run := range runs {
		run.WaitSwapped()
	}
	hostnames := map[string]string{}
	for _, in := range []*scene.World{w, other} {
		for _, name := range names {
			whole := name + "." + in.Namespace
			far := c.Far("http://" + whole)
			self := far.WaitLocal("local")
			if was := hostnames[self.Hostname]; was != "" {
				t.Errorf("%s has the hostname of %s", whole, was)
			}
			hostnames[self.Hostname] = whole
			if got := subject(t, far.File("/var/run/secrets/kubernetes.io/serviceaccount/token")); got != "system:serviceaccount:"+in.Namespace+":"+name {
				t.Errorf("%s has the account %s", whole, got)
			}
			contains(t, "variables of "+whole, strings.Join(far.Env(), "\n"), "WHO="+name+"\n")
		}
	}

	several := w.Teleswap("exec", "one", "--", "true")
	several.WaitEnd(1)
	contains(t, "a name in two namespaces", several.Stderr(), "there are several sessions: ", "(deployment/one:app in "+w.Namespace+")", "(deployment/one:app in "+other.Namespace+")")
	for _, in := range []*scene.World{w, other} {
		file := "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
		if got := w.Output("exec", "one", "-n", in.Namespace, "--", "cat", file); got != in.Namespace {
			t.Errorf("entered the session of namespace %s, want %s", got, in.Namespace)
		}
	}
	ambiguous := w.Teleswap("leave", "two")
	ambiguous.WaitEnd(1)
	contains(t, "leaving a name in two namespaces", ambiguous.Stderr(), "(deployment/two:app in "+other.Namespace+")")
	w.Output("leave", "two", "-n", other.Namespace)
	runs[3].Wait()
	if n := strings.Count(w.Output("status"), "active"); n != 9 {
		t.Errorf("%d sessions are active after one of ten was left", n)
	}
	w.Output("leave", "--all")
	for _, run := range runs {
		run.Wait()
	}
	for _, in := range []*scene.World{w, other} {
		in.WaitUnchanged()
	}
}

// subject is whom a ServiceAccount's token is of (RFC 7519).
func subject(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(claims, &said); err != nil {
		t.Fatal(err)
	}
	return said.Sub
}
