package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// status is what scripts read.
type status struct {
	Daemon struct {
		PID     int    `json:"pid"`
		Version string `json:"version"`
	} `json:"daemon"`
	Sessions []struct {
		ID        string `json:"id"`
		Target    string `json:"target"`
		Namespace string `json:"namespace"`
		Context   string `json:"context"`
		State     string `json:"state"`
		Since     string `json:"since"`
		PID       int    `json:"pid"`
		Transport string `json:"transport"`
		AgentPod  string `json:"agentPod"`
		Steps     []struct {
			Name         string  `json:"name"`
			State        string  `json:"state"`
			Milliseconds float64 `json:"milliseconds"`
		} `json:"steps"`
	} `json:"sessions"`
}

func readStatus(t *testing.T, w *scene.World) status {
	t.Helper()
	var s status
	out := w.Output("status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("status -o json: %v\n%s", err, out)
	}
	return s
}

// TestSwapStatusListLeave asks about a swap from elsewhere, and ends it from there.
func TestSwapStatusListLeave(t *testing.T) {
	w, c := webWorld(t)
	if s := readStatus(t, w); len(s.Sessions) != 0 {
		t.Errorf("sessions before any swap: %+v", s.Sessions)
	}
	contains(t, "list", w.Output("list"), "web")
	run, _ := swapWeb(w, c)

	s := readStatus(t, w)
	if len(s.Sessions) != 1 {
		t.Fatalf("%d sessions, want 1: %+v", len(s.Sessions), s)
	}
	got := s.Sessions[0]
	if s.Daemon.PID != w.DaemonPID() || s.Daemon.Version != scene.Version {
		t.Errorf("daemon is %+v, want pid %d, version %s", s.Daemon, w.DaemonPID(), scene.Version)
	}
	contains(t, "target", got.Target, "web")
	if got.Namespace != w.Namespace || got.ID == "" || got.State == "" || got.Since == "" || got.Context == "" {
		t.Errorf("session is %+v, want namespace %s, and nothing empty", got, w.Namespace)
	}
	if transports := []string{"pod-ip", "pod-proxy", "port-forward-websocket", "port-forward-spdy"}; !slices.Contains(transports, got.Transport) {
		t.Errorf("transport is %q, want one of %v", got.Transport, transports)
	}
	if pods := w.Pods(scene.SessionLabel); len(pods) != 1 || pods[0].Name != got.AgentPod {
		t.Errorf("agent pod is %q, want that of the cluster", got.AgentPod)
	}
	names := make([]string, 0, len(got.Steps))
	for _, step := range got.Steps {
		names = append(names, step.Name)
	}
	if want := []string{"resolve", "mark", "agent", "dial", "start", "ready", "shift"}; !slices.Equal(names, want) {
		t.Errorf("steps are %v, want %v", names, want)
	}
	contains(t, "status", w.Output("status"), "web", got.ID, got.Transport)
	contains(t, "list", w.Output("list"), "web", got.ID)

	w.Output("leave", got.ID)
	run.WaitEnd(128 + int(sigterm))
	w.WaitUnchanged()
	if s := readStatus(t, w); len(s.Sessions) != 0 {
		t.Errorf("sessions after leave: %+v", s.Sessions)
	}
}

// TestSwapTellsEachStep checks what a person sees while waiting: a line a step, with its time.
func TestSwapTellsEachStep(t *testing.T) {
	w, c := webWorld(t)
	run, _ := swapWeb(w, c)
	at := 0
	for _, step := range []string{"resolve", "mark", "agent", "dial", "start", "ready", "shift"} {
		line := regexp.MustCompile(`(?m)^✓ +` + step + ` .* [0-9.]+ ?(ms|s)$`)
		found := line.FindStringIndex(run.Stderr()[at:])
		if found == nil {
			t.Fatalf("no line for step %s with its time, in its place; standard error:\n%s", step, run.Stderr())
		}
		at += found[1]
	}
	if n := strings.Count(run.Stderr(), "\x1b"); n != 0 {
		t.Errorf("standard error is no terminal and got %d escape sequences", n)
	}
}

// TestSwapConnectionFlags finds the cluster by flags alone, where the environment leads astray.
func TestSwapConnectionFlags(t *testing.T) {
	w, c := webWorld(t)
	config := w.Kubeconfig
	w.Env = append(w.Env, "KUBECONFIG=/nowhere")
	context := strings.TrimSpace(w.CurrentContext())
	run := w.Teleswap(append([]string{"--kubeconfig", config, "swap", "--context", context, "-n", w.Namespace, "--request-timeout=1m", "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	c.Far("http://web").WaitLocal("local")
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
}

// TestSwapCompletion asks as a shell does when Tab is pressed.
func TestSwapCompletion(t *testing.T) {
	w := newWorld(t)
	w.Apply(portsScene)
	w.Apply(noPortScene)
	w.WaitAvailable()
	w.Freeze()
	for _, tc := range []struct {
		args []string
		want []string
		not  string
	}{
		{[]string{"swap", ""}, []string{"ports", "worker"}, ""},
		{[]string{"swap", "po"}, []string{"ports"}, ""},
		{[]string{"swap", "--deployment", "wo"}, []string{"worker"}, ""},
		{[]string{"swap", "deployment/po"}, []string{"deployment/ports"}, ""},
		{[]string{""}, []string{"swap", "status", "list", "leave", "restore", "version", "completion"}, "daemon"},
	} {
		out := completes(w, strings.Join(tc.args, " "), func() string { return w.Output(append([]string{"__complete"}, tc.args...)...) }, tc.want...)
		if tc.not != "" && regexp.MustCompile(`(?m)^`+tc.not).MatchString(out) {
			t.Errorf("%q completes to %q, among others", tc.args, tc.not)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		contains(t, "completion for "+shell, w.Output("completion", shell), "teleswap")
	}
}

// TestSwapVersion needs no daemon and no cluster.
func TestSwapVersion(t *testing.T) {
	w := newWorld(t)
	w.Freeze()
	w.Env = append(w.Env, "KUBECONFIG=/nowhere")
	contains(t, "version", w.Output("version"), scene.Version)
	if pid := w.DaemonPID(); pid != 0 {
		t.Errorf("version started a daemon, %d", pid)
	}
}

// TestSwapDaemonIsPrivate looks at the socket, and tries it as somebody else.
func TestSwapDaemonIsPrivate(t *testing.T) {
	w, c := webWorld(t)
	run, _ := swapWeb(w, c)
	dir := filepath.Join(filepath.Dir(w.Home), "run", "teleswap")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("the daemon's folder: %v", err)
	}
	sockets := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		if info.Mode()&os.ModeSocket != 0 {
			sockets++
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, want nothing for others", e.Name(), info.Mode())
		}
	}
	if sockets == 0 {
		t.Errorf("no socket in %s: the test looks in the wrong place", dir)
	}
	if os.Geteuid() != 0 || w.User.UID == 0 {
		return // there is nobody else to try it as
	}
	// Not even root, whom no file mode stops, is served by another user's daemon.
	other := w.Start(scene.How{As: &scene.User{UID: 0}}, w.Lab.Bin.Teleswap, "leave", "web")
	if other.Wait() == 0 {
		t.Errorf("root ended another user's swap: %s", other.Stdout())
	}
	if run.Exited() {
		t.Error("the swap was ended by another user")
	}
}

// TestSwapWithEditRole is all that the product may need: `edit` in the one namespace.
func TestSwapWithEditRole(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	w.Apply(account("developer") + roleBinding("developer", "ClusterRole", "edit"))
	c := w.NewClient()
	w.WaitAvailable()
	w.LoginAs(w.Token("developer"))
	w.Freeze()
	load := c.StartLoad("http://web/api")
	load.WaitOriginal(50)
	run, _ := swapWeb(w, c, "-drain")
	load.WaitSwapped(50)
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
	load.Stop().NoneFailed(t)
}

// TestSwapByPortForward is by a user who may not use pods/proxy: the tunnel goes by port-forward.
func TestSwapByPortForward(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	w.Apply(backendScene)
	w.Apply(account("forwarder") + roleWithout("forwarder", "pods/proxy", "*") + roleBinding("forwarder", "Role", "forwarder"))
	c := w.NewClient()
	w.WaitAvailable()
	w.LoginAs(w.Token("forwarder"))
	w.Freeze()
	load := c.StartLoad("http://web/api")
	load.WaitOriginal(50)
	run, far := swapWeb(w, c, "-drain")
	// By SPDY it goes where the agent did not listen yet when WebSockets were tried.
	if got := readStatus(t, w).Sessions[0].Transport; !strings.HasPrefix(got, "port-forward-") {
		t.Errorf("the tunnel goes by %q, want a way of port-forward", got)
	}
	if o := far.Do("get", "url", "http://service-b:5100/self"); !o.OK {
		t.Errorf("get http://service-b:5100/self: %+v", o)
	}
	load.WaitSwapped(50)
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
	load.Stop().NoneFailed(t)
}
