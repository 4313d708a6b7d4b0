package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/e2e/scene"
)

// connectCalls are typed in a `connect -- sh`, one after the other; the probe serves on 127.0.0.1:9999 there.
func connectCalls(namespace string) []call {
	full := namespace + ".svc.cluster.local"
	return []call{
		{"psql asks", `psql -XAt -c 'select 40 + 2'`, `42\n`, 0},
		{"psql by its namespace", `psql -XAt -h postgres.` + namespace + ` -c 'select 1'`, `1\n`, 0},
		{"psql at a closed port", `psql -XAt -p 5433 -c 'select 1'`, `(?s).*Connection refused.*`, 2},
		{"redis-cli", `redis-cli -h redis set key 'a value' && redis-cli -h redis get key`, `OK\na value\n`, 0},
		{"curl", `curl -sS http://web/`, `HTTP/1\.1 by nginx, asked by [0-9.]+\n`, 0},
		{"curl by a full name", `curl -sS http://web.` + full + `/`, `HTTP/1\.1 by nginx, asked by [0-9.]+\n`, 0},
		{"curl by an address", `curl -sS http://$(dig +short +search web)/`, `HTTP/1\.1 by nginx, asked by [0-9.]+\n`, 0},
		{"curl fetches much", `curl -sS http://web/bytes?n=5000011 | wc -c`, `5000011\n`, 0},
		{"curl does not know a name", `curl -sS http://nobody-has-this-name/`, `curl: \(6\) .*\n`, 6},
		{"dig A", `dig +short +search web | grep -c '^10\.'`, `1\n`, 0},
		{"dig AAAA has none, and says so", `dig +search web AAAA | grep -c 'status: NOERROR'`, `1\n`, 0},
		{"dig SRV", `dig +short _http._tcp.headless.` + full + ` SRV`, `(\d+ \d+ 5100 .*headless\.` + full + `\.\n)+`, 0},
		{"dig PTR", `dig +short -x $(dig +short +search web)`, `web\.` + full + `\.\n`, 0},
		{"dig by TCP", `dig +tcp +short web.` + full + ` | grep -c '^10\.'`, `1\n`, 0},
		{"dig with EDNS", `dig +bufsize=4096 +dnssec web.` + full + ` | grep -c 'EDNS: version: 0'`, `1\n`, 0},
		{"dig a name that is nowhere", `dig no-such-name.` + full + ` | grep -c 'status: NXDOMAIN'`, `1\n`, 0},
		{"ping", `ping -n -c 1 -W 20 $PEER | grep -c '1 received'`, `1\n`, 0},
		{"datagrams", `curl -sS 'http://127.0.0.1:9999/udp?addr=peer:5102&text=hello&timeout=20s'`, `(?s).*"ok": ?true.*`, 0},
	}
}

// TestConnectCommand uses the cluster's servers with the clients that everybody has, without taking anybody's place.
func TestConnectCommand(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		secret, _ := tlsSecret(t, "web", "web")
		w.Apply(secret)
		w.Apply(serversYAML())
		w.Apply(strings.ReplaceAll(peerScene, "RESTRICTED", restrictedContext))
		w.WaitAvailable()
		w.Freeze()
		needs(t, "psql", "redis-cli", "curl", "dig", "ping")
		calls := connectCalls(w.Namespace)
		env := []string{
			"PGHOST=postgres", "PGUSER=postgres", "PGPASSWORD=" + secretWord, "POD_IP=none", "PEER=" + w.PodIP("app=peer"),
		}
		run := w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "connect", "--", "/bin/sh", w.File("calls", callScript(w, calls)))
		run.WaitEnd(0)
		checkCalls(t, run.Stdout(), calls)
		if text := run.Stderr(); text != "" {
			t.Errorf("who pipes its output sees %q", text)
		}
		w.WaitUnchanged()
	})
}

// connectWorld has a peer to be reached.
func connectWorld(t *testing.T) *scene.World {
	t.Helper()
	w := newWorld(t)
	w.Apply(strings.ReplaceAll(peerScene, "RESTRICTED", restrictedContext))
	w.WaitAvailable()
	w.Freeze()
	return w
}

// connected starts a shell script on the cluster's network and waits until it runs.
func connected(w *scene.World, script string) *scene.Run {
	w.T.Helper()
	run := w.Teleswap("connect", "--", "/bin/sh", "-c", "echo begun; "+script)
	run.WaitStdout("^begun$")
	return run
}

// jobs is how many agents stand in nobody's place.
func jobs(w *scene.World) int {
	w.T.Helper()
	return w.Count("batch", "v1", "jobs")
}

func TestConnectIsTransparent(t *testing.T) {
	w := connectWorld(t)
	for _, tc := range []struct {
		name   string
		argv   []string
		status int
		stdout string
	}{
		{"the exit status", []string{"connect", "--", "/bin/sh", "-c", "exit 7"}, 7, ""},
		{"the end by a signal", []string{"connect", "--", "/bin/sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{"--run and its flags", []string{"connect", "--run", "/bin/sh", "-c", "printf '%s,' \"$0\" \"$1\"", "-n", "x"}, 0, "-n,x,"},
		{"the environment is one's own", []string{"connect", "--", "/bin/sh", "-c", "echo $USER,$KUBERNETES_SERVICE_HOST,$HOSTNAME"}, 0, "dev,,\n"},
		{"its files and folder", []string{"connect", "--", "/bin/sh", "-c", "cat mine && pwd"}, 0, "mine\n" + w.Home + "\n"},
		{"the namespace's search domains", []string{"connect", "--", "/bin/sh", "-c", "grep -o \"search $NS.svc[^ ]*\" /etc/resolv.conf"}, 0, "search " + w.Namespace + ".svc.cluster.local\n"},
		{"children", []string{"connect", "--", "/bin/sh", "-c", "(curl -sS -o /dev/null -w '%{http_code}' http://peer:5100/self) & wait"}, 0, "200"},
	} {
		w.File("mine", "mine\n")
		run := w.Start(scene.How{Env: []string{"NS=" + w.Namespace}}, append([]string{w.Lab.Bin.Teleswap}, tc.argv...)...)
		run.WaitEnd(tc.status)
		if got := run.Stdout(); got != tc.stdout {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.stdout)
		}
		if text := run.Stderr(); text != "" {
			t.Errorf("%s: standard error has %q", tc.name, text)
		}
	}
	shell := w.Start(scene.How{Stdin: strings.NewReader("curl -sS -o /dev/null -w '%{http_code}' http://peer:5100/self; exit 3\n")}, w.Lab.Bin.Teleswap, "connect", "--run-shell")
	shell.WaitEnd(3)
	if got := shell.Stdout(); got != "200" {
		t.Errorf("a shell in the cluster says %q", got)
	}
	w.WaitUnchanged()
}

// TestConnectShared has two commands at once: they share one agent, which goes with the last.
func TestConnectShared(t *testing.T) {
	w := connectWorld(t)
	first := connected(w, "exec sleep 600")
	second := connected(w, "exec sleep 600")
	if n := jobs(w); n != 1 {
		t.Errorf("%d agents for two connects, want 1", n)
	}
	status := w.Output("status")
	if n := strings.Count(status, "connect"); n < 2 {
		t.Errorf("status does not show both:\n%s", status)
	}
	first.SignalGroup(sigint)
	first.WaitEnd(128 + int(sigint))
	if n := jobs(w); n != 1 {
		t.Errorf("%d agents while one connect is left, want 1", n)
	}
	w.Output("leave", "--all")
	second.Wait()
	w.WaitUnchanged()
	third := connected(w, "exec sleep 600")
	third.Signal(syscall.SIGTERM)
	third.Wait()
	w.WaitUnchanged()
}

// TestConnectKilled kills what is ours; nothing may be left by the next command at the latest.
func TestConnectKilled(t *testing.T) {
	t.Run("the command", func(t *testing.T) {
		w := connectWorld(t)
		run := connected(w, "exec sleep 600")
		run.Signal(sigkill)
		run.Wait()
		w.WaitUnchanged()
		w.Eventually("the command's child to be gone", func() string {
			for _, p := range w.Processes() {
				if strings.HasSuffix(p.Args[0], "sleep") {
					return p.String()
				}
			}
			return ""
		})
	})
	t.Run("the daemon", func(t *testing.T) {
		w := connectWorld(t)
		run := connected(w, "exec sleep 600")
		w.Kill(w.DaemonPID())
		run.WaitEnd(1)
		contains(t, "the message", run.Stderr(), "the daemon died during the connect")
		w.WaitUnchanged()
	})
	t.Run("both", func(t *testing.T) {
		w := connectWorld(t)
		run := connected(w, "exec sleep 600")
		killBoth(w, run)
		w.Output("status")
		w.WaitUnchanged()
	})
}

// TestConnectAlone has the laptop gone for good: the cluster's own controllers take the agent away, with nobody's help.
func TestConnectAlone(t *testing.T) {
	w := connectWorld(t)
	w.Env = append(w.Env, "TELESWAP_ALONE_FOR=5s")
	run := connected(w, "exec sleep 600")
	killBoth(w, run)
	if jobs(w) != 1 || w.Left() == "" {
		t.Error("there was no agent to be taken away")
	}
	w.WaitUnchanged()
	// The next command finds that there is nothing left to do.
	w.Output("connect", "--", "true")
	w.WaitUnchanged()
}

// TestConnectAgentGone has the agent deleted under a living connection, first its pod, then all of it.
func TestConnectAgentGone(t *testing.T) {
	w := connectWorld(t)
	ask := "until curl -sS -m 5 -o /dev/null http://peer:5100/self; do sleep 0.2; done"
	run := connected(w, fmt.Sprintf(`while read word; do %s; echo "$word again"; done`, ask)+" < "+fifo(w)+"; exec sleep 600")
	for _, what := range []string{"pods", "jobs"} {
		w.Kubectl("delete", what, "-l", scene.SessionLabel, "--wait=false")
		say(w, what)
		run.WaitStdout("^" + what + " again$")
	}
	run.SignalGroup(sigint)
	run.Wait()
	w.WaitUnchanged()
}

// TestConnectAfterASleep stops the daemon for a minute and cuts its connections off meanwhile, as a laptop's lid does.
func TestConnectAfterASleep(t *testing.T) {
	w := connectWorld(t)
	if !w.Lab.Embedded() {
		t.Skip("needs the laptop of the embedded cluster, whose network can be cut")
	}
	run := connected(w, "while :; do curl -s -m 1 -o /dev/null http://peer:5100/self && date +%s.%N; sleep 0.05; done")
	run.WaitStdout(`^\d+\.\d+$`)
	pid := w.DaemonPID()
	mend := w.CutOff()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute) // longer than heartbeats may be missing
	mend()
	before := len(run.Stdout())
	woke := time.Now()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	w.Eventually("an answer after the sleep", func() string {
		if len(run.Stdout()) > before {
			return ""
		}
		return "none yet"
	})
	took := time.Since(woke)
	t.Logf("connected again %s after it woke", took)
	if took > 10*time.Second { // 3 s are promised on a machine that is not busy otherwise; heartbeats alone would take 15
		t.Errorf("it took %s to be connected again", took)
	}
	run.SignalGroup(sigint)
	run.Wait()
}

// TestConnectRefused is what a user cannot do, and is told.
func TestConnectRefused(t *testing.T) {
	w := connectWorld(t)
	ns := w.Namespace
	w.Apply(account("viewer") + roleBinding("viewer", "ClusterRole", "view") + account("editor") + roleBinding("editor", "ClusterRole", "edit"))
	w.Freeze()
	as := func(name string) *scene.Run {
		config := w.KubeconfigOf(name, w.Token(name))
		return w.Start(scene.How{Env: []string{"KUBECONFIG=" + config}}, w.Lab.Bin.Teleswap, "connect", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://peer:5100/self")
	}
	viewer := as("viewer")
	viewer.WaitEnd(1)
	contains(t, "the message", viewer.Stderr(), "missing permission", "system:serviceaccount:"+ns+":viewer", "create jobs", "--clusterrole=edit")
	editor := as("editor")
	editor.WaitEnd(0)
	if got := editor.Stdout(); got != "200" {
		t.Errorf("with the role edit: %q", got)
	}
	refused(t, w.Teleswap("connect", "-n", "no-such-namespace", "--", "true"), 2, `namespace "no-such-namespace" not found`)
	refused(t, w.Teleswap("connect", "--server", "https://127.0.0.1:1", "--", "true"), 1, "127.0.0.1:1", "connection refused")
	begun := time.Now()
	refused(t, w.Teleswap("connect", "--server", "https://192.0.2.1", "--request-timeout", "4s", "--", "true"), 1, "192.0.2.1")
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("an API server that does not answer is waited for %s", took)
	}
	refused(t, w.Teleswap("connect", "--agent-image", "teleswap.dev/none:none", "--agent-pull-policy", "Never", "--", "true"), 1, "ErrImageNeverPull", "teleswap image load")
	for _, tc := range []struct {
		args  []string
		parts []string
	}{
		{[]string{"connect", "--run-shell", "--", "true"}, []string{"give one of them"}},
		{[]string{"connect", "curl"}, []string{"write -- in front of the command"}},
		{[]string{"connect", "--", "no-such-program"}, []string{"no-such-program", "PATH"}},
		{[]string{"connect", "--run"}, []string{"--run needs a command"}},
	} {
		refused(t, w.Teleswap(tc.args...), 2, tc.parts...)
	}
	w.WaitUnchanged()
}

// TestConnectWithoutASandbox gives the command a proxy into the cluster, and nothing else.
func TestConnectWithoutASandbox(t *testing.T) {
	w := connectWorld(t)
	run := w.Teleswap("connect", "--no-sandbox", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{remote_ip}", "http://peer:5100/self")
	run.WaitEnd(0)
	if got := run.Stdout(); got != "200 127.0.0.1" {
		t.Errorf("through the proxy: %q", got)
	}
	w.WaitUnchanged()
}

// TestConnectEntered: what enters a swap enters a connect, too.
func TestConnectEntered(t *testing.T) {
	w := connectWorld(t)
	run := connected(w, "exec sleep 600")
	if got := w.Output("exec", "connect", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://peer:5100/self"); got != "200" {
		t.Errorf("a command beside it: %q", got)
	}
	run.SignalGroup(sigint)
	run.Wait()
	w.WaitUnchanged()
}

// TestConnectUnderLimits: a ResourceQuota that wants everything asked for, and a LimitRange that gives it.
func TestConnectUnderLimits(t *testing.T) {
	w := connectWorld(t)
	w.Apply(`
apiVersion: v1
kind: LimitRange
metadata: {name: small}
spec: {limits: [{type: Container, default: {cpu: 500m, memory: 128Mi}, max: {cpu: "1", memory: 512Mi}}]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: all}
spec: {hard: {limits.cpu: "4", limits.memory: 2Gi, pods: "2"}}
`)
	w.Freeze()
	w.Eventually("the quota to be counted", func() string {
		if w.Kubectl("get", "resourcequota", "all", "-o", `jsonpath={.status.used.pods}`) == "1" {
			return ""
		}
		return "not yet"
	})
	w.Output("connect", "--", "curl", "-sS", "-o", "/dev/null", "http://peer:5100/self")
	w.WaitUnchanged()
	w.Kubectl("patch", "resourcequota", "all", "-p", `{"spec":{"hard":{"pods":"1"}}}`)
	w.Eventually("the quota to be full", func() string {
		if w.Kubectl("get", "resourcequota", "all", "-o", `jsonpath={.status.hard.pods}`) == "1" {
			return ""
		}
		return "not yet"
	})
	refused(t, w.Teleswap("connect", "--", "true"), 1, "exceeded quota", "25m of CPU", "--namespace")
	w.WaitUnchanged()
}

// inClusterScene is a pod in which somebody works, as in an IDE that runs in the cluster, with the role edit.
const inClusterScene = `
apiVersion: v1
kind: Pod
metadata: {name: ide, labels: {app: ide}}
spec:
  terminationGracePeriodSeconds: 1
  serviceAccountName: editor
  containers:
  - name: ide
    image: TELESWAP
    imagePullPolicy: IfNotPresent
    command: [/bin/probe, -sleep]
    env:
    - {name: HOME, value: /home/dev}
    - {name: TELESWAP_AGENT_IMAGE, value: "{AGENT}"}
    securityContext: RESTRICTED
    volumeMounts: [{name: home, mountPath: /home/dev}, {name: home, mountPath: /tmp}]
  volumes: [{name: home, emptyDir: {}}]
`

// TestConnectInTheCluster works from a pod without a kubeconfig, by its ServiceAccount, from pod to pod.
func TestConnectInTheCluster(t *testing.T) {
	w := newWorld(t)
	w.Apply(account("editor") + roleBinding("editor", "ClusterRole", "edit"))
	w.Apply(strings.NewReplacer("RESTRICTED", restrictedContext, "{AGENT}", w.Lab.Images.Agent).Replace(inClusterScene))
	w.PodIP("app=ide")
	w.Freeze()
	// The command sees the session that it runs in.
	status := w.Exec("app=ide", "ide", "teleswap", "connect", "--no-sandbox", "--", "teleswap", "status")
	contains(t, "status", status, "connect", w.Namespace, "pod-ip")
	w.WaitUnchanged()
}

// TestConnectDocker runs a container on the cluster's network.
func TestConnectDocker(t *testing.T) {
	w := connectWorld(t)
	image := useDocker(t, w)
	run := w.Teleswap("connect", "--docker-run", "--rm", image, "-ask", "get?url=http://peer:5100/self")
	run.WaitEnd(0)
	contains(t, "the container's word", run.Stdout(), `"ok":true`, `\"Name\":\"peer\"`)
	run = w.Teleswap("connect", "--docker-run", "--rm", "--entrypoint", "sh", image, "-c", "exit 5")
	run.WaitEnd(5)
	w.WaitUnchanged()
}

// TestConnectAtATerminal is a shell in the cluster as somebody at a keyboard has it.
func TestConnectAtATerminal(t *testing.T) {
	w := connectWorld(t)
	tty := newTerminal(t, w)
	run := w.Start(scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm"}}, w.Lab.Bin.Teleswap, "connect", "--", "/bin/sh")
	_ = tty.slave.Close()
	tty.waitFor(w, "connected to "+w.Namespace+" by ")
	tty.enter(t, "echo code $(curl -sS -o /dev/null -w '%{http_code}' http://peer:5100/self)\n")
	tty.waitFor(w, "code 200")
	tty.enter(t, "sleep 600\n")
	w.Eventually("the shell's child", func() string {
		for _, p := range w.Processes() {
			if p.Args[0] == "sleep" {
				return ""
			}
		}
		return "none"
	})
	tty.enter(t, "\x03") // is the child's
	tty.enter(t, "echo st''ill here\n")
	tty.waitFor(w, "still here")
	tty.enter(t, "exit 4\n")
	run.WaitEnd(4)
	w.WaitUnchanged()
}

// fifo makes a named pipe of the user's, which this process keeps open.
func fifo(w *scene.World) string {
	w.T.Helper()
	path := w.Home + "/words"
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		w.T.Fatal(err)
	}
	if err := os.Chown(path, w.User.UID, w.User.UID); err != nil {
		w.T.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { _ = f.Close() })
	return path
}

// say writes a line into it.
func say(w *scene.World, word string) {
	w.T.Helper()
	f, err := os.OpenFile(w.Home+"/words", os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintln(f, word)
	}
	if err != nil {
		w.T.Fatal(err)
	}
	_ = f.Close()
}
