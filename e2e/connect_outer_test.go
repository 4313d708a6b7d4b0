package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestConnectDoctor examines a machine with a good cluster, without a cluster, and with a user without rights.
func TestConnectDoctor(t *testing.T) {
	parallel(t)
	t.Run("a good cluster", func(t *testing.T) {
		asBoth(t, func(t *testing.T, w *scene.World) {
			w.Freeze()
			run := w.Teleswap("doctor", "--round-trip")
			run.WaitEnd(0)
			contains(t, "doctor", run.Stdout(), "ok    kubeconfig ", "namespace "+w.Namespace, "ok    API server       v1.", "ok    permissions ",
				"swap a Deployment, ", "ok    user namespaces", "ok    TUN ", "ok    FUSE ", "ok    resolver ", "ok    routes ", "ok    leftovers        none",
				"ok    round trip       an agent came and went")
			if strings.Contains(run.Stdout(), "\nnot ") {
				t.Errorf("something is not:\n%s", run.Stdout())
			}
			w.WaitUnchanged()
		})
	})
	t.Run("no round trip unasked", func(t *testing.T) {
		w := newWorld(t)
		w.Freeze()
		writes := w.WatchWrites()
		run := w.Teleswap("doctor")
		run.WaitEnd(0)
		contains(t, "doctor", run.Stdout(), "note  round trip       not made", "→ --round-trip makes it")
		untouched(t, w, writes)
		if pid := w.DaemonPID(); pid != 0 {
			t.Errorf("a daemon was started, pid %d", pid)
		}
	})
	t.Run("without a cluster", func(t *testing.T) {
		w := newWorld(t)
		w.Env = append(w.Env, "KUBECONFIG="+filepath.Join(w.Home, "none"))
		run := w.Teleswap("doctor")
		run.WaitEnd(1)
		contains(t, "doctor", run.Stdout(), "not   kubeconfig       no cluster: ", "→ name one with --kubeconfig", "note  round trip       not made")
	})
	t.Run("without rights", func(t *testing.T) {
		w := newWorld(t)
		w.Apply(account("nobody"))
		w.LoginAs(w.Token("nobody"))
		run := w.Teleswap("doctor", "--output", "json")
		run.WaitEnd(1)
		var report struct {
			OK       bool
			Findings []struct{ Check, State, Says, Do string }
		}
		if err := json.Unmarshal([]byte(run.Stdout()), &report); err != nil || report.OK {
			t.Fatalf("%v in %s", err, run.Stdout())
		}
		var missing []string
		for _, f := range report.Findings {
			if f.Check != "permissions" || f.State != "not" {
				continue
			}
			missing = append(missing, f.Says)
			contains(t, "what to do", f.Do, "kubectl create rolebinding", "--serviceaccount="+w.Namespace+":nobody")
		}
		contains(t, "the permissions", strings.Join(missing, "\n"), "system:serviceaccount:"+w.Namespace+":nobody", "patch deployments.apps", "create secrets", "create jobs.batch")
	})
	t.Run("somebody's swap was left", func(t *testing.T) {
		w, c := webWorld(t)
		run, _ := swapWeb(w, c)
		killBoth(w, run)
		doctor := w.Teleswap("doctor")
		doctor.WaitEnd(1)
		contains(t, "doctor", doctor.Stdout(), "not   leftovers        deployment/web in namespace "+w.Namespace+" bears the mark of session ", "→ `teleswap restore deployment/web",
			"was left by a daemon that died")
		w.Output("status")
		w.WaitUnchanged()
		w.Output("doctor")
	})
}

// archive reads a .tar.gz file: its files by their names below the one folder.
func archive(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		files[name] = string(text)
	}
}

// TestConnectGather writes an archive in the midst of a swap, with secrets planted wherever a user may have one.
func TestConnectGather(t *testing.T) {
	const inEnv, inFlag, inOutput = "planted-in-the-environment", "planted-in-a-flag", "planted-in-the-output"
	w, _ := webWorld(t)
	w.Env = append(w.Env, "MY_API_TOKEN="+inEnv)
	run := w.Teleswap(append([]string{"swap", "web", "--env", "SOME_PASSWORD=" + inEnv, "--", "/bin/sh", "-c", `echo ` + inOutput + `; exec "$@"`, inFlag}, probe(w)...)...)
	run.WaitSwapped()
	file := filepath.Join(w.Home, "report.tar.gz")
	made := w.Teleswap("gather", file)
	made.WaitEnd(0)
	if strings.TrimSpace(made.Stdout()) != file {
		t.Errorf("standard output %q", made.Stdout())
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	files := archive(t, file)
	agent := w.Pods(scene.SessionLabel)[0]
	dir := "cluster/" + w.Namespace + "/"
	for name, parts := range map[string][]string{
		"README.txt":                        {"Left out", "daemon.log"},
		"machine.txt":                       {"teleswap ", "/etc/resolv.conf"},
		"doctor.json":                       {`"check": "API server"`},
		"status.json":                       {`"target": "deployment/web:app"`, "words left out"},
		"daemon.log":                        {"daemon starts"},
		dir + "pod-" + agent.Name + ".yaml": {"name: " + agent.Name, "secretRef", "(left-out)"},
		dir + "log-" + agent.Name + ".txt":  {"level=INFO", "of the local process are left out"},
		dir + "events.txt":                  {agent.Name},
	} {
		contains(t, "the archive's "+name, files[name], parts...)
		contains(t, "what is said of it", made.Stderr(), name)
	}
	if !strings.Contains(strings.Join(sortedNames(files), " "), "ledger/") {
		t.Errorf("no ledger among %v", sortedNames(files))
	}
	kubeconfig, err := os.ReadFile(w.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{secretWord, base64.StdEncoding.EncodeToString([]byte(secretWord)), inEnv, inFlag, inOutput, "PRIVATE KEY", "eyJ"}
	for line := range strings.Lines(string(kubeconfig)) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ": "); found && (key == "client-key-data" || key == "client-certificate-data" || key == "token") {
			secrets = append(secrets, value)
		}
	}
	if len(secrets) < 8 {
		t.Errorf("the kubeconfig has no credentials to be looked for:\n%s", kubeconfig)
	}
	for name, text := range files {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %.30s in it", name, secret)
			}
		}
	}
	run.SignalGroup(sigint)
	run.Wait()
	w.WaitUnchanged()
}

func sortedNames(m map[string]string) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	return names
}

// TestConnectExpose has a server of the laptop called from a pod, by TCP and UDP.
func TestConnectExpose(t *testing.T) {
	const port = "18742"
	w, c := emptyWorld(t)
	run := w.Teleswap("expose", port+":80", port+":53/udp", "--as", "hello")
	run.WaitStderr(`waiting: nothing listens on ports ` + port)
	server := w.Start(scene.How{}, w.Lab.Bin.Probe, "-listen", "127.0.0.1:"+port, "-udp", "127.0.0.1:"+port, "-name", "mine")
	contains(t, "the line", run.WaitStderr(`^exposed: `), "hello:80 is this machine's 127.0.0.1:"+port, "hello:53/udp is this machine's 127.0.0.1:"+port, "Ctrl-C ends it")
	far := c.Far("http://hello")
	far.WaitLocal("mine")
	if got := w.DeploymentNames(); len(got) != 1 || got[0] != "hello" {
		t.Errorf("Deployments %v", got)
	}
	taken := w.Teleswap("expose", "18743:80", "--as", "hello")
	taken.WaitEnd(2)
	contains(t, "a name that is taken", taken.Stderr(), "hello", "already swapped by")

	// The server is started again: who calls meanwhile waits.
	server.Signal(sigkill)
	server.Wait()
	w.Start(scene.How{}, "/bin/sh", "-c", `sleep 1; exec "$@"`, "sh", w.Lab.Bin.Probe, "-listen", "127.0.0.1:"+port, "-udp", "127.0.0.1:"+port, "-name", "again")
	if self := far.Self(); self.Name != "again" {
		t.Errorf("answered by %+v", self)
	}
	run.SignalGroup(sigint)
	run.WaitEnd(0)
	contains(t, "the end", run.Stderr(), "the Service hello is gone, as before")
	w.WaitUnchanged()

	t.Log("in the background")
	behind := w.Teleswap("expose", port+":80", "--as", "hello", "-d")
	behind.WaitEnd(0)
	far.WaitLocal("again")
	w.Output("leave", strings.TrimSpace(behind.Stdout()))
	w.WaitUnchanged()
}
