package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestWaysClusters has one daemon swap targets of one name in two clusters, by two contexts. The clusters have the same addresses.
func TestWaysClusters(t *testing.T) {
	w := newWorld(t)
	other := w.AnotherCluster().NewWorld(t)
	who := func(name string) string {
		return strings.ReplaceAll(tinyScene("who", 8080), "-name, original", "-name, "+name)
	}
	clients := map[*scene.World]*scene.Client{}
	for in, name := range map[*scene.World]string{w: "first", other: "second"} {
		in.Apply(tinyScene("web", 8080))
		in.Apply(who(name))
		clients[in] = in.NewClient()
		in.WaitAvailable()
		in.Freeze()
	}
	there, err := os.ReadFile(other.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	session := func(name string, in *scene.World) string {
		return fmt.Sprintf("  %s: {context: %s, target: web, command: [%q, -listen, ':8080', -name, local-%s]}\n", name, in.CurrentContext(), w.Lab.Bin.Probe, name)
	}
	file := w.File("two/.teleswap.yaml", "sessions:\n"+session("here", w)+session("there", other))
	how := scene.How{Dir: filepath.Dir(file), Env: []string{"KUBECONFIG=" + w.Kubeconfig + ":" + w.File("other", string(there))}}
	up := w.Start(how, w.Lab.Bin.Teleswap, "up")
	up.WaitStderr("all 2 sessions are swapped")
	daemon := w.DaemonPID()
	for _, tc := range []struct {
		in           *scene.World
		local, calls string
	}{{w, "local-here", "first"}, {other, "local-there", "second"}} {
		far := clients[tc.in].Far("http://web")
		self := far.WaitLocal(tc.local)
		pods := tc.in.Pods(scene.SessionLabel)
		if len(pods) != 1 || self.Hostname != pods[0].Name {
			t.Errorf("%s has the hostname %s; there are %d agents", tc.local, self.Hostname, len(pods))
		}
		if o := far.Do("get", "url", "http://who/self"); !strings.Contains(o.Body, `"name":"`+tc.calls+`"`) {
			t.Errorf("%s calls %+v, want %s", tc.local, o, tc.calls)
		}
		if got := far.File("/var/run/secrets/kubernetes.io/serviceaccount/namespace"); got != tc.in.Namespace {
			t.Errorf("%s is in namespace %s, want %s", tc.local, got, tc.in.Namespace)
		}
	}
	status := w.Output("status")
	if n := strings.Count(status, "active"); n != 2 {
		t.Errorf("%d sessions are active:\n%s", n, status)
	}
	w.Output("leave", "web", "-n", other.Namespace)
	other.WaitUnchanged()
	clients[w].Far("http://web").WaitLocal("local-here")
	up.SignalGroup(sigint)
	up.Wait()
	if now := w.DaemonPID(); now != daemon {
		t.Errorf("the daemon was %d, and is %d", daemon, now)
	}
	w.WaitUnchanged()
}
