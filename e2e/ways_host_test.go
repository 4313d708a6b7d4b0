package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/e2e/scene"
)

// plainScene is a service with files of both kinds, and another that it may call.
const plainScene = `
apiVersion: v1
kind: Secret
metadata: {name: plain}
stringData: {word: ` + secretWord + `}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {app.conf: "listen = 1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain, labels: {app: plain}}
spec:
  replicas: 1
  selector: {matchLabels: {app: plain}}
  template:
    metadata: {labels: {app: plain}}
    spec:
      terminationGracePeriodSeconds: 10
      volumes:
      - {name: secret, secret: {secretName: plain}}
      - {name: config, configMap: {name: plain}}
      - {name: cache, emptyDir: {}}
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8080", -name, original, -drain]
        ports: [{name: http, containerPort: 8080}]
        env: [{name: FROM_POD, value: "from the pod"}]
        volumeMounts:
        - {name: secret, mountPath: /etc/app/secret, readOnly: true}
        - {name: config, mountPath: /srv/app.conf, subPath: app.conf}
        - {name: cache, mountPath: /cache}
        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {app: plain}
  ports: [{port: 80, targetPort: http}]
`

// plainWorld is a world with the scene.
func plainWorld(t *testing.T) (*scene.World, *scene.Client) {
	t.Helper()
	w := newWorld(t)
	return w, plainIn(w)
}

func plainIn(w *scene.World) *scene.Client {
	w.T.Helper()
	w.Apply(plainScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	return c
}

// plainSwap swaps it without a sandbox by the probe, which listens on a port of the laptop, and waits until it answers. The laptop is
// all tests': each has ports of its own.
func plainSwap(w *scene.World, c *scene.Client, port int, more ...string) (*scene.Run, scene.Far) {
	w.T.Helper()
	at := fmt.Sprint(port)
	args := append([]string{"swap", "plain", "--no-sandbox", "--expose", at + ":8080"}, more...)
	run := w.Teleswap(append(args, "--", w.Lab.Bin.Probe, "-listen", "127.0.0.1:"+at, "-name", "local", "-drain")...)
	run.WaitSwapped()
	far := c.Far("http://plain")
	far.WaitLocal("local")
	return run, far
}

// variable is one of the process's.
func variable(t testing.TB, far scene.Far, name string) string {
	t.Helper()
	for _, kv := range far.Env() {
		if v, found := strings.CutPrefix(kv, name+"="); found {
			return v
		}
	}
	t.Errorf("the process has no %s", name)
	return ""
}

// mountsBelow are the mounts of the laptop at and below a directory.
func mountsBelow(t testing.TB, pid int, dir string) (points []string) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir) {
			points = append(points, fields[4])
		}
	}
	return points
}

// TestWaysNoSandboxSees swaps without a sandbox, as an ordinary user and as root: environment, files of both kinds, inbound calls, and what
// is left afterwards.
func TestWaysNoSandboxSees(t *testing.T) {
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Fatal("fusermount3 is missing, without which users have no live volumes: install the package fuse3")
	}
	var ports atomic.Int32 // both halves are on one laptop at once
	asBoth(t, func(t *testing.T, w *scene.World) {
		port := int(18180 + ports.Add(1))
		c := plainIn(w)
		run, far := plainSwap(w, c, port)
		contains(t, "the start", run.Stderr(), "no sandbox: ", "$TELESWAP_ROOT", "by the proxy at 127.0.0.1:", "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY")
		if got := variable(t, far, "FROM_POD"); got != "from the pod" {
			t.Errorf("FROM_POD is %q", got)
		}
		root := variable(t, far, "TELESWAP_ROOT")
		if got := variable(t, far, "TELEPRESENCE_ROOT"); got != root {
			t.Errorf("TELEPRESENCE_ROOT is %q, TELESWAP_ROOT %q", got, root)
		}
		if st, err := os.Stat(root); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", root, st, err)
		}
		if got := far.File(root + "/etc/app/secret/word"); got != secretWord {
			t.Errorf("the Secret is %q", got)
		}
		if got := far.File(root + "/srv/app.conf"); got != "listen = 1" {
			t.Errorf("the file mounted by subPath is %q", got)
		}
		if got := far.File(root + "/var/run/secrets/kubernetes.io/serviceaccount/namespace"); got != w.Namespace {
			t.Errorf("the token's namespace is %q", got)
		}
		if self := far.Self(); !strings.HasPrefix(self.Peer, "127.0.0.1:") {
			t.Errorf("the client is seen at %s", self.Peer)
		}
		plainVolumes(t, w, far, root)
		pid := far.Self().PID
		if got := mountsBelow(t, pid, root); len(got) != 1 || got[0] != root+"/cache" {
			t.Errorf("mounted: %v, want the emptyDir alone", got)
		}
		run.SignalGroup(sigint)
		run.WaitEnd(128 + int(sigint))
		if _, err := os.Stat(root); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", root, err)
		}
		w.WaitUnchanged()
	})
}

// plainVolumes writes on either side of a live volume, and changes a Secret.
func plainVolumes(t *testing.T, w *scene.World, far scene.Far, root string) {
	t.Helper()
	if o := far.FileOp("write", root+"/cache/note", "from the laptop"); !o.OK {
		t.Errorf("write to the emptyDir: %+v", o)
	}
	if got := far.File(root + "/cache/note"); got != "from the laptop" {
		t.Errorf("the emptyDir's file is %q", got)
	}
	patch := []byte(`{"stringData":{"word":"another word"}}`)
	if _, err := w.Lab.Kube.CoreV1().Secrets(w.Namespace).Patch(t.Context(), "plain", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.EventuallyInVolume(w.Pods(scene.SessionLabel)[0].Name, "the Secret's file to follow", func() string {
		if got := far.File(root + "/etc/app/secret/word"); got != "another word" {
			return got
		}
		return ""
	})
	back := []byte(`{"stringData":{"word":"` + secretWord + `"}}`)
	if _, err := w.Lab.Kube.CoreV1().Secrets(w.Namespace).Patch(t.Context(), "plain", types.MergePatchType, back, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// plainCurl runs curl on the laptop with the environment that a process has from us.
func plainCurl(w *scene.World, env []string, args ...string) (status int, out string) {
	w.T.Helper()
	run := w.Start(scene.How{Env: env}, append([]string{"curl", "-sS", "--max-time", "20"}, args...)...)
	status = run.Wait()
	return status, strings.TrimSpace(run.Stdout() + run.Stderr())
}

// TestWaysNoSandboxProxy goes out by the proxy: names of the cluster, by HTTP and by SOCKS, a port that is refused, a name that does not
// exist, and what goes by the laptop.
func TestWaysNoSandboxProxy(t *testing.T) {
	w, c := plainWorld(t)
	run, far := plainSwap(w, c, 18190)
	at := regexp.MustCompile(`proxy at (\S+)`).FindStringSubmatch(run.Stderr())[1]
	proxy := strings.TrimPrefix(variable(t, far, "HTTP_PROXY"), "http://")
	user, found := strings.CutSuffix(proxy, "@"+at)
	if !found || !regexp.MustCompile(`^teleswap:\w{20,}$`).MatchString(user) || strings.Contains(run.Stderr(), user) {
		t.Errorf("HTTP_PROXY is %q, at %s", proxy, at)
	}
	for name, want := range map[string]string{
		"HTTP_PROXY": "http://" + proxy, "https_proxy": "http://" + proxy, "ALL_PROXY": "socks5h://" + proxy, "NO_PROXY": "localhost,127.0.0.1,::1",
	} {
		if got := variable(t, far, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	client := "http://" + c.IP + ":8099/self"
	for _, env := range []string{"http_proxy=http://" + at, "ALL_PROXY=socks5h://" + at, "ALL_PROXY=socks5h://teleswap:guess@" + at} {
		if status, out := plainCurl(w, []string{env}, "-f", client); status == 0 {
			t.Errorf("another user of the machine, with %s: %s", env, out)
		}
	}
	for name, env := range map[string][]string{
		"http":  {"http_proxy=http://" + proxy},
		"socks": {"ALL_PROXY=socks5h://" + proxy},
	} {
		for _, address := range []string{"http://plain/self", "http://plain." + w.Namespace + ".svc/self", "http://plain." + w.Namespace + ".svc.cluster.local./self", client} {
			status, out := plainCurl(w, env, address)
			if status != 0 || !strings.Contains(out, `"name"`) {
				t.Errorf("%s of %s: status %d, %s", name, address, status, out)
			}
		}
		for _, address := range []string{"http://plain:81/", "http://" + c.IP + ":7/", "http://no-such-service/"} {
			status, out := plainCurl(w, append(env, "LC_ALL=C"), "-f", address)
			if status == 0 {
				t.Errorf("%s of %s succeeded: %s", name, address, out)
			}
			t.Logf("%s of %s: status %d, %s", name, address, status, out)
		}
	}
	status, out := plainCurl(w, []string{"http_proxy=http://" + proxy}, "http://"+c.IP+":7/")
	if status != 0 || !strings.Contains(out, "connection refused") {
		t.Errorf("a refused port by HTTP: status %d, %s", status, out)
	}
	const proxyError = 97 // curl(1): CURLE_PROXY
	if status, out = plainCurl(w, []string{"ALL_PROXY=socks5h://" + proxy}, "http://"+c.IP+":7/"); status != proxyError || !strings.Contains(out, "(5)") {
		t.Errorf("a refused port by SOCKS: status %d, %s; want %d and reply 5", status, out, proxyError)
	}
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	if status, _ := plainCurl(w, []string{"http_proxy=http://" + proxy}, client); status == 0 {
		t.Error("the proxy is still there")
	}
	heldProxy(t, w, c, client)
}

// heldProxy holds a swap without a sandbox: what the user starts himself goes out by the variables that are written for it.
func heldProxy(t *testing.T, w *scene.World, c *scene.Client, address string) {
	t.Helper()
	const port = "18191"
	variables := path.Join(w.Home, "plain.json")
	run := w.Teleswap("swap", "plain", "--no-sandbox", "--expose", port+":8080", "--env-json", variables)
	line := run.WaitStderr(`held for a process that you start yourself, on this machine; `)
	contains(t, "the line", line, variables)
	text, err := os.ReadFile(variables)
	if err != nil {
		t.Fatal(err)
	}
	var env map[string]string
	if err := json.Unmarshal(text, &env); err != nil {
		t.Fatal(err)
	}
	if status, out := plainCurl(w, []string{"http_proxy=" + env["http_proxy"]}, address); status != 0 || !strings.Contains(out, `"name"`) {
		t.Errorf("by %q: status %d, %s", env["http_proxy"], status, out)
	}
	ide := w.Start(scene.How{}, ideProbe(w, port, "ide")...)
	run.WaitSwapped()
	c.Far("http://plain").WaitLocal("ide")
	run.SignalGroup(sigint)
	run.WaitEnd(0)
	ide.Signal(sigterm)
	ide.Wait()
}

// TestWaysNoSandboxReadiness has the process listen late, and another process of the laptop before it.
func TestWaysNoSandboxReadiness(t *testing.T) {
	w, c := plainWorld(t)
	gate := path.Join(w.Home, "gate")
	run := w.Teleswap("swap", "plain", "--no-sandbox", "--expose", "18201:8080", "--",
		w.Lab.Bin.Probe, "-listen", "127.0.0.1:18201", "-name", "local", "-drain", "-gate", gate)
	run.WaitStderr(`waiting: nothing listens on port 18201`)
	squatter := w.Start(scene.How{}, w.Lab.Bin.Probe, "-listen", "127.0.0.1:18201", "-name", "squatter")
	contains(t, "the line", run.WaitStderr(`port 18201 of this machine is taken by`), fmt.Sprintf("(pid %d)", squatter.PID()))
	if strings.Contains(run.Stderr(), "swapped:") {
		t.Error("swapped, though another process listens")
	}
	c.Far("http://plain").WaitLocal("original")
	squatter.Signal(sigkill)
	squatter.Wait()
	w.File("gate", "")
	run.WaitSwapped()
	c.Far("http://plain").WaitLocal("local")
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
}

// TestWaysNoSandboxPortTaken finds a port that another process of the laptop has: nothing is changed.
func TestWaysNoSandboxPortTaken(t *testing.T) {
	w, _ := plainWorld(t)
	writes := w.WatchWrites()
	squatter := w.Start(scene.How{}, w.Lab.Bin.Probe, "-listen", "127.0.0.1:18211", "-name", "squatter")
	w.Eventually("the squatter to listen", func() string {
		if status, out := plainCurl(w, nil, "http://127.0.0.1:18211/self"); status != 0 {
			return out
		}
		return ""
	})
	run := w.Teleswap("swap", "plain", "--no-sandbox", "--expose", "18211:8080", "--", w.Lab.Bin.Probe, "-listen", "127.0.0.1:18211")
	run.WaitEnd(2)
	contains(t, "the message", run.Stderr(), "port 18211 of this machine is taken by", fmt.Sprintf("(pid %d)", squatter.PID()), "--expose OTHER:")
	if changes := writes.Stop(); len(changes) > 0 {
		t.Errorf("the cluster was changed: %v", changes)
	}
}

// TestWaysNoSandboxTwo has two sessions at once, each with its own files and proxy.
func TestWaysNoSandboxTwo(t *testing.T) {
	w, c := plainWorld(t)
	w.Apply(strings.ReplaceAll(plainScene, "plain", "other"))
	w.WaitAvailable()
	w.Freeze()
	run, far := plainSwap(w, c, 18221)
	second := w.Teleswap("swap", "other", "--no-sandbox", "--expose", "18222:8080", "--", w.Lab.Bin.Probe, "-listen", "127.0.0.1:18222", "-name", "second", "-drain")
	second.WaitSwapped()
	c.Far("http://other").WaitLocal("second")
	far.WaitLocal("local")
	for _, name := range []string{"TELESWAP_ROOT", "HTTP_PROXY"} {
		if a, b := variable(t, far, name), variable(t, c.Far("http://other"), name); a == b {
			t.Errorf("both have %s=%s", name, a)
		}
	}
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	c.Far("http://other").WaitLocal("second")
	second.SignalGroup(sigint)
	second.WaitEnd(128 + int(sigint))
}

// TestWaysNoSandboxKilled kills the command, then the daemon, then both: no directory, no mount and no process is left.
func TestWaysNoSandboxKilled(t *testing.T) {
	parallel(t)
	for i, tc := range []struct {
		name string
		kill func(w *scene.World, run *scene.Run)
	}{
		{"the command", func(_ *scene.World, run *scene.Run) { run.Signal(sigkill) }},
		{"the daemon", func(w *scene.World, _ *scene.Run) { w.Kill(w.DaemonPID()) }},
		{"both", func(w *scene.World, run *scene.Run) {
			daemon := w.DaemonPID()
			run.Signal(sigkill)
			w.Kill(daemon)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := plainWorld(t)
			run, far := plainSwap(w, c, 18231+i)
			root := variable(t, far, "TELESWAP_ROOT")
			holder := w.Start(scene.How{}, w.Lab.Bin.Probe, "-sleep") // sees the laptop's mounts
			w.Eventually("a volume to be mounted, as the holder sees it once it is on the laptop", func() string {
				if len(mountsBelow(t, holder.PID(), root)) == 0 {
					return "nothing is mounted below " + root
				}
				return ""
			})
			tc.kill(w, run)
			run.Wait()
			if tc.name == "both" {
				w.Output("status")
			}
			w.WaitUnchanged()
			w.Eventually("the files to go", func() string {
				if left := mountsBelow(t, holder.PID(), root); len(left) > 0 {
					return fmt.Sprint("mounted: ", left)
				}
				if _, err := os.Lstat(root); !os.IsNotExist(err) {
					return fmt.Sprint(root, ": ", err)
				}
				return ""
			})
			holder.Signal(sigkill)
			holder.Wait()
		})
	}
}

// forbidden is a script that forbids user namespaces to itself and what it starts, without a change of the machine: the limit is
// that of a user namespace of its own. It tries with a sandbox, then without.
const forbidden = `set -e
echo 0 >/proc/sys/user/max_user_namespaces
"$1" swap plain -- true || echo "refused with $?" >&2
exec "$@"`

// TestWaysNoSandboxWhereForbidden: the message names the switch and the other way to go, and that way works.
func TestWaysNoSandboxWhereForbidden(t *testing.T) {
	w, c := plainWorld(t)
	run := w.Start(scene.How{Wrap: []string{"unshare", "--user", "--map-root-user", "--mount", "sh", "-c", forbidden, "sh"}},
		w.Lab.Bin.Teleswap, "swap", "plain", "--no-sandbox", "--expose", "18241:8080", "--", w.Lab.Bin.Probe, "-listen", "127.0.0.1:18241", "-name", "local", "-drain")
	run.WaitStderr(`refused with 1`)
	contains(t, "the refusal", run.Stderr(), "forbids user namespaces", "sudo sysctl -w user.max_user_namespaces=15000", "--no-sandbox")
	run.WaitSwapped()
	far := c.Far("http://plain")
	far.WaitLocal("local")
	root := variable(t, far, "TELESWAP_ROOT")
	if got := far.File(root + "/etc/app/secret/word"); got != secretWord {
		t.Errorf("the Secret is %q", got)
	}
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
}
