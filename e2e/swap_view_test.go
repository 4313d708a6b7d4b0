package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestSwapProcessSeesPod compares what the process sees with the pod that it stands for, and
// with the laptop that it runs on.
func TestSwapProcessSeesPod(t *testing.T) {
	w, c := webWorld(t)
	w.Env = append(w.Env, "FROM_CONFIG=the laptop's", "ONLY_HERE=yes")
	dir := filepath.Dir(w.File("project/.keep", ""))
	run := w.Start(scene.How{Dir: dir}, append([]string{w.Lab.Bin.Teleswap, "swap", "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	far := c.Far("http://web")
	self := far.WaitLocal("local")
	agents := w.Pods(scene.SessionLabel)
	if len(agents) != 1 {
		t.Fatalf("%d agent pods, want 1", len(agents))
	}
	pod := agents[0]

	t.Run("environment", func(t *testing.T) {
		env := map[string]string{}
		for _, e := range far.Env() {
			k, v, _ := strings.Cut(e, "=")
			if _, twice := env[k]; twice {
				t.Errorf("%s is there twice", k)
			}
			env[k] = v
		}
		for k, want := range map[string]string{
			"SECRET_WORD": secretWord, "ENV": "test", "FROM_CONFIG": "a value with spaces = and signs", "MULTILINE": "one\ntwo",
			"POD_IP": pod.Status.PodIP, "HOSTNAME": pod.Name,
			"KUBERNETES_SERVICE_PORT": "443", "WEB_SERVICE_PORT": "80",
			"ONLY_HERE": "yes", "HOME": w.Home, "USER": "dev", "SHELL": "/bin/sh", "LANG": "C.UTF-8", "TERM": "dumb",
			"TMPDIR": filepath.Join(filepath.Dir(w.Home), "tmp"),
		} {
			if got, ok := env[k]; !ok || got != want {
				t.Errorf("%s is %q, want %q", k, got, want)
			}
		}
		if strings.Contains(env["PATH"], "/pod/bin") || !strings.Contains(env["PATH"], "/usr/bin") {
			t.Errorf("PATH is %q, want the laptop's", env["PATH"])
		}
		if got := env["PWD"]; got != "" && got != dir {
			t.Errorf("PWD is %q, want %q or nothing", got, dir)
		}
	})
	t.Run("identity", func(t *testing.T) {
		if self.Hostname != pod.Name {
			t.Errorf("hostname %q, want the pod's, %q", self.Hostname, pod.Name)
		}
		if !slices.ContainsFunc(self.Addresses, func(a string) bool { return strings.HasPrefix(a, pod.Status.PodIP+"/") }) {
			t.Errorf("addresses %v, want the pod's, %s, among them", self.Addresses, pod.Status.PodIP)
		}
		if !strings.HasPrefix(self.Local, pod.Status.PodIP+":") {
			t.Errorf("the connection came to %s, want to the pod's address %s", self.Local, pod.Status.PodIP)
		}
		if self.Dir != dir {
			t.Errorf("working directory %q, want %q", self.Dir, dir)
		}
	})
	t.Run("no privileges", func(t *testing.T) {
		if w.User.UID == 0 {
			t.Skip("root keeps root's privileges: run the tests as an ordinary user, or on the embedded cluster")
		}
		for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
			if got := strings.Trim(self.Status[set], "0"); got != "" {
				t.Errorf("%s of the process is %s, want none", set, self.Status[set])
			}
		}
		uid := strings.Fields(self.Status["Uid"])
		if len(uid) == 0 || uid[0] != strconv.Itoa(w.User.UID) {
			t.Errorf("the process's uid is %v, want the user's, %d", uid, w.User.UID)
		}
	})
	t.Run("resolv.conf", func(t *testing.T) {
		got := far.File("/etc/resolv.conf")
		// The client pod is in the same namespace, with the same DNS policy.
		if want := c.Body("http://" + c.IP + ":8099/file?path=/etc/resolv.conf"); got != want {
			t.Errorf("resolv.conf is\n%s\nwant the pod's\n%s", got, want)
		}
	})
	t.Run("hosts", func(t *testing.T) {
		contains(t, "/etc/hosts", far.File("/etc/hosts"), pod.Status.PodIP, pod.Name, "127.0.0.1")
	})
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
}

// TestSwapKeepsSecretsOutOfLogs looks into everything that the product wrote.
func TestSwapKeepsSecretsOutOfLogs(t *testing.T) {
	w, c := webWorld(t)
	run, far := swapWeb(w, c)
	if !slices.Contains(far.Env(), "SECRET_WORD="+secretWord) {
		t.Fatal("the process does not have the Secret's value: the test would prove nothing")
	}
	w.Output("status")
	far.Exit(0)
	run.WaitEnd(0)
	w.WaitUnchanged()
	if w.DaemonLog() == "" {
		t.Error("the daemon wrote no log: there is nothing to look into")
	}
	if strings.Contains(run.Stderr(), secretWord) {
		t.Error("standard error has the Secret's value")
	}
	err := filepath.WalkDir(filepath.Dir(w.Home), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(content), secretWord) {
			t.Errorf("%s has the Secret's value", path)
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && !strings.HasPrefix(path, w.Home) {
			t.Errorf("%s has mode %o: others can read what the product keeps", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Errorf("look through what was written: %v", err)
	}
	if strings.Contains(w.AgentLogs(), secretWord) {
		t.Error("the agent's log has the Secret's value")
	}
}
