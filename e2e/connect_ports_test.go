package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// pgClient calls psql with the password that serversScene has.
func pgClient(w *scene.World, address string) []string {
	host, port, _ := strings.Cut(address, ":")
	return []string{needed(w.T.(*testing.T), "psql"), "-XAt", "-h", host, "-p", port, "-U", "postgres", "-c", "select 40 + 2"}
}

// said runs a program on the laptop to its end, which must be a good one, and returns what it says.
func said(w *scene.World, argv ...string) string {
	w.T.Helper()
	run := w.Start(scene.How{Env: []string{"PGPASSWORD=" + secretWord}}, argv...)
	run.WaitEnd(0)
	return strings.TrimSpace(run.Stdout())
}

// serversWorld has databases and web servers as Debian ships them.
func serversWorld(t *testing.T, w *scene.World) {
	t.Helper()
	secret, _ := tlsSecret(t, "web", "web")
	w.Apply(secret)
	w.Apply(serversYAML())
	w.WaitAvailable()
	w.Freeze()
}

// ports are where a forward's lines say that it listens, by the destination.
func forwardedAt(run *scene.Run, destinations ...string) map[string]string {
	at := map[string]string{}
	for _, d := range destinations {
		line := run.WaitStderr(`^forwarding: \S+ leads to ` + regexp.QuoteMeta(d) + `$`)
		at[d] = strings.TrimSuffix(strings.Fields(line)[1], "/udp")
	}
	return at
}

// TestConnectForward leads ports of the laptop to Services, a deployment, a pod, a headless Service and a nameserver.
func TestConnectForward(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		serversWorld(t, w)
		pod := w.Pods("app=redis")[0].Name
		run := w.Teleswap("forward", "postgres:5432:0", "redis."+w.Namespace+":6379:0", "web:http:0", "deployment/backend:5100:0", "pod/"+pod+":6379:0",
			"kube-dns.kube-system:53:0/udp", "kube-dns.kube-system:53:0")
		at := forwardedAt(run, "postgres:5432", "redis."+w.Namespace+":6379", "web:http", "deployment/backend:5100", "pod/"+pod+":6379", "kube-dns.kube-system:53")
		if got := said(w, pgClient(w, at["postgres:5432"])...); got != "42" {
			t.Errorf("psql: %q", got)
		}
		redis := needed(t, "redis-cli")
		for _, d := range []string{"redis." + w.Namespace + ":6379", "pod/" + pod + ":6379"} {
			_, port, _ := strings.Cut(at[d], ":")
			if got := said(w, redis, "-h", "127.0.0.1", "-p", port, "ping"); got != "PONG" {
				t.Errorf("redis-cli to %s: %q", d, got)
			}
		}
		curl := needed(t, "curl")
		contains(t, "curl", said(w, curl, "-sSf", "http://"+at["web:http"]+"/"), "HTTP/1.1 by nginx")
		contains(t, "curl to a deployment", said(w, curl, "-sSf", "http://"+at["deployment/backend:5100"]+"/self"), `"name":"backend"`)
		for _, line := range []string{run.WaitStderr(`^forwarding: \S+/udp leads to kube-dns.kube-system:53$`), run.WaitStderr(`^forwarding: [^/]+ leads to kube-dns.kube-system:53$`)} {
			where := strings.Fields(line)[1]
			_, port, _ := strings.Cut(strings.TrimSuffix(where, "/udp"), ":")
			args := []string{needed(t, "dig"), "@127.0.0.1", "-p", port, "+short", "redis." + w.Namespace + ".svc.cluster.local", "A"}
			if !strings.HasSuffix(where, "/udp") {
				args = append(args, "+tcp")
			}
			if got := said(w, args...); regexp.MustCompile(`^[0-9.]+$`).FindString(got) == "" {
				t.Errorf("dig at %s: %q", where, got)
			}
		}

		completes(w, "forward redi", func() string { return w.Output("__complete", "forward", "redi") }, "redis:\n")
		status := heardSession(t, w)
		if status.Transport == "" || status.LatencyMilliseconds <= 0 || status.BytesIn == 0 || status.BytesOut == 0 || len(status.HostChanges) != 7 {
			t.Errorf("status: %+v", status)
		}
		contains(t, "status", w.Output("status"), "forward postgres:5432 redis.", "and 5 more", "LATENCY", status.ID+": "+at["postgres:5432"]+" leads to postgres:5432")

		// One port of this machine is one's only.
		taken := w.Teleswap("forward", "web:http:"+strings.TrimPrefix(at["postgres:5432"], "127.0.0.1:"))
		taken.WaitEnd(2)
		contains(t, "a port that is taken", taken.Stderr(), "forward web:http: "+at["postgres:5432"]+" is taken on this machine", "as in web:http:")

		run.SignalGroup(sigint)
		run.WaitEnd(0)
		refusedBy := w.Start(scene.How{}, curl, "-sS", "http://"+at["web:http"]+"/")
		refusedBy.WaitEnd(7) // could not connect
		w.WaitUnchanged()
	})
}

// measured is what status says of a session's way to its agent.
type measured struct {
	ID, Target, Transport, AgentPod string
	LatencyMilliseconds             float64
	BytesIn, BytesOut, DNSQueries   uint64
	HostChanges                     []string
}

// oneSession is the only one of the world.
func oneSession(t *testing.T, w *scene.World) measured {
	t.Helper()
	var status struct{ Sessions []measured }
	if err := json.Unmarshal([]byte(w.Output("status", "-o", "json")), &status); err != nil || len(status.Sessions) != 1 {
		t.Fatalf("status: %v, %+v", err, status)
	}
	return status.Sessions[0]
}

// heardSession is oneSession once its agent has answered a heartbeat in time; a busy machine may take longer for some.
func heardSession(t *testing.T, w *scene.World) measured {
	t.Helper()
	var status measured
	w.Eventually("the session's latency", func() string {
		if status = oneSession(t, w); status.LatencyMilliseconds <= 0 {
			return fmt.Sprintf("%+v", status)
		}
		return ""
	})
	return status
}

// TestConnectForwardFollows deletes the pods of a destination, and cuts the way to the cluster, under a forward.
func TestConnectForwardFollows(t *testing.T) {
	w := newWorld(t)
	w.Apply(followScene)
	w.WaitAvailable()
	run := w.Teleswap("forward", "web:80:0", "headless:80:0", "deployment/web:8080:0")
	at := forwardedAt(run, "web:80", "headless:80", "deployment/web:8080")
	curl := needed(t, "curl")
	// What waits to be accepted as a server ends is reset, in a cluster without us, too: a client asks again.
	ask := func() (names []string) {
		t.Helper()
		for _, d := range []string{"web:80", "headless:80", "deployment/web:8080"} {
			var self scene.Self
			if err := json.Unmarshal([]byte(said(w, curl, "-sSf", "--max-time", "60", "--retry", "5", "--retry-delay", "1", "--retry-all-errors", "http://"+at[d]+"/self")), &self); err != nil {
				t.Fatal(err)
			}
			names = append(names, self.Hostname)
		}
		return names
	}
	before := ask()
	w.Kubectl("delete", "pod", "--wait=false", "--namespace", w.Namespace, before[0])
	if after := ask(); strings.Contains(strings.Join(after, " "), before[0]) {
		t.Logf("%s still answered: %v", before[0], after) // it may, while it ends
	}
	w.Eventually("the deleted pod to answer no more", func() string {
		if after := ask(); strings.Contains(strings.Join(after, " "), before[0]) {
			return strings.Join(after, " ")
		}
		return ""
	})

	t.Log("no pod for a while")
	w.Scale("web", 0)
	w.Eventually("the pods to be gone, for whom the forward asks, too", func() string {
		if n := len(w.Pods("app=web")); n > 0 {
			return fmt.Sprint(n)
		}
		found, err := w.Lab.Kube.DiscoveryV1().EndpointSlices(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=headless"})
		if err != nil {
			return err.Error()
		}
		for _, s := range found.Items {
			for _, e := range s.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					return fmt.Sprintf("%s still has %v as Ready", s.Name, e.Addresses)
				}
			}
		}
		return ""
	})
	waiting := w.Start(scene.How{}, curl, "-sSf", "--max-time", "60", "http://"+at["headless:80"]+"/self")
	run.WaitStderr(`^! headless:80 does not answer: .*no pod of it is Ready`)
	w.Scale("web", 1)
	waiting.WaitEnd(0)
	run.WaitStderr(`^· headless:80 answers again`)

	t.Log("the agent is deleted")
	agent := oneSession(t, w).AgentPod
	w.Kubectl("delete", "pod", "--wait=false", "--namespace", w.Namespace, agent)
	w.Eventually("another agent", func() string {
		ask()
		if now := oneSession(t, w).AgentPod; now == agent {
			return now
		}
		return ""
	})
	if w.Lab.Embedded() {
		t.Log("the laptop is cut off until the tunnel breaks")
		before := strings.Count(w.DaemonLog(), "the tunnel broke")
		mend := w.CutOff()
		w.Eventually("the tunnel to break", func() string {
			if strings.Count(w.DaemonLog(), "the tunnel broke") > before {
				return ""
			}
			return "it stands"
		})
		waits := w.Start(scene.How{}, curl, "-sSf", "--max-time", "60", "http://"+at["web:80"]+"/self")
		mend()
		waits.WaitEnd(0)
		ask()
	}
	run.SignalGroup(sigint)
	run.WaitEnd(0)
}

// followScene is a Deployment with a Service and one without an address.
var followScene = probeDeployment("web", `
        args: [-listen, ":8080", -name, web]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /self, port: 8080}, periodSeconds: 1}`) + `
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// TestConnectProxy reaches the cluster through the proxy by SOCKS and by HTTP, with a password and without.
func TestConnectProxy(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		serversWorld(t, w)
		curl := needed(t, "curl")
		run := w.Teleswap("connect", "--proxy", "0")
		line := strings.TrimSpace(run.WaitStdout(`^export ALL_PROXY=socks5h://127\.0\.0\.1:\d+$`))
		at := line[strings.LastIndex(line, "/")+1:]
		for _, c := range []struct{ by, url, says string }{
			{"socks5h://", "http://web/", "HTTP/1.1 by nginx"},
			{"socks5h://", "http://web." + w.Namespace + ".svc.cluster.local/", "by nginx"},
			{"http://", "http://web/", "by nginx"},
			{"http://", "https://web/", "HTTP/2.0 by nginx"},
			{"socks5h://", "http://backend:5100/self", `"name":"backend"`},
		} {
			contains(t, c.by+" to "+c.url, said(w, curl, "-sSfk", "-x", c.by+at, c.url), c.says)
		}
		// As the printed line has a shell do it.
		shell := w.Start(scene.How{}, "/bin/sh", "-c", `eval "$1"; exec "$2" -sSf http://web/`, "sh", line, curl)
		shell.WaitEnd(0)
		contains(t, "curl by the printed line", shell.Stdout(), "by nginx")
		// Programs that know of no proxy are led to it by another.
		_, port, _ := strings.Cut(at, ":")
		chain := []string{needed(t, "proxychains4"), "-q", "-f", w.File("chain.conf", "strict_chain\nproxy_dns\n[ProxyList]\nsocks5 127.0.0.1 "+port+"\n")}
		if got := said(w, append(chain, pgClient(w, "postgres:5432")...)...); got != "42" {
			t.Errorf("psql: %q", got)
		}
		if got := said(w, append(chain, needed(t, "redis-cli"), "-h", "redis", "ping")...); got != "PONG" {
			t.Errorf("redis-cli: %q", got)
		}
		// A name that is nowhere, and a port where nobody listens.
		nowhere := w.Start(scene.How{}, curl, "-sS", "-x", "http://"+at, "http://no-such-service/")
		nowhere.WaitEnd(0)
		contains(t, "a name that is nowhere", nowhere.Stdout(), "teleswap: ", "no-such-service")
		closed := w.Start(scene.How{}, curl, "-sS", "-x", "socks5h://"+at, "http://"+w.PodIP("app=backend")+":9/")
		if closed.Wait() == 0 {
			t.Errorf("a closed port answers: %s", closed.Stdout())
		}
		script := said(w, curl, "-sSf", "http://"+at+"/proxy.pac")
		contains(t, "the script", script, `"backend":true`, `"backend.`+w.Namespace+`":true`, ".cluster.local", "PROXY "+at)
		by := pacDecides(t, w, script, "web", "example.com", "x."+w.Namespace+".svc.cluster.local", "localhost", w.PodIP("app=backend"))
		if want := []bool{true, false, true, false, true}; fmt.Sprint(by) != fmt.Sprint(want) {
			t.Errorf("the script has go by the proxy %v, want %v", by, want)
		}
		st := oneSession(t, w)
		if st.Target != "proxy" || st.DNSQueries == 0 || st.BytesIn == 0 || fmt.Sprint(st.HostChanges) != "[proxy at "+at+"]" {
			t.Errorf("status: %+v", st)
		}
		taken := w.Teleswap("connect", "--proxy", at)
		taken.WaitEnd(2)
		contains(t, "a port that is taken", taken.Stderr(), "--proxy "+at+": "+at+" is taken on this machine")
		run.SignalGroup(sigint)
		run.WaitEnd(0)

		for _, c := range []struct{ args, says string }{
			{"0.0.0.0:0", "with nothing to keep them from it"}, {"nowhere:80", "is no address"}, {"1080 -- curl", "--proxy and a command"},
		} {
			bad := w.Teleswap(append([]string{"connect", "--proxy"}, strings.Fields(c.args)...)...)
			bad.WaitEnd(2)
			contains(t, "--proxy "+c.args, bad.Stderr(), c.says)
		}

		auth := w.File("auth", "me:planted-password\n")
		behind := w.Teleswap("connect", "--proxy", "127.0.0.1:0", "--proxy-auth", auth, "-d")
		behind.WaitEnd(0)
		id := strings.TrimSpace(behind.Stdout())
		contains(t, "the line for a shell", behind.Stderr(), `export ALL_PROXY="socks5h://$(cat `+auth+`)@127.0.0.1:`)
		found := regexp.MustCompile(`@(127\.0\.0\.1:\d+)"`).FindStringSubmatch(behind.Stderr())
		if found == nil {
			t.Fatalf("no address in %s", behind.Stderr())
		}
		contains(t, "with the password", said(w, curl, "-sSf", "-x", "socks5h://me:planted-password@"+found[1], "http://web/"), "by nginx")
		without := w.Start(scene.How{}, curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-x", "http://"+found[1], "http://web/")
		without.WaitEnd(0)
		if without.Stdout() != "407" {
			t.Errorf("without the password: %s", without.Stdout())
		}
		for what, text := range map[string]string{"standard error": behind.Stderr(), "the daemon's log": w.DaemonLog(), "status": w.Output("status", "-o", "json")} {
			if strings.Contains(text, "planted-password") {
				t.Errorf("the password is in %s", what)
			}
		}
		w.Output("leave", id)
		w.WaitUnchanged()
	})
}

// pacDecides asks a script for browsers what goes by the proxy.
func pacDecides(t *testing.T, w *scene.World, script string, hosts ...string) (by []bool) {
	t.Helper()
	list, err := json.Marshal(hosts)
	if err != nil {
		t.Fatal(err)
	}
	program := w.File("pac.js", script+"\nconsole.log(JSON.stringify("+string(list)+".map(function (h) { return FindProxyForURL('', h) != 'DIRECT'; })));")
	if err := json.Unmarshal([]byte(said(w, needed(t, "node"), program)), &by); err != nil {
		t.Fatal(err)
	}
	return by
}

// TestConnectStatus has the bytes and questions of a swap counted.
func TestConnectStatus(t *testing.T) {
	w, c := webWorld(t)
	_, far := swapWeb(w, c)
	before := oneSession(t, w)
	if o := far.Do("lookup", "name", "web"); !o.OK {
		t.Fatalf("look a name up: %+v", o)
	}
	c.Body("http://web/bytes?n=300000")
	after := heardSession(t, w)
	if after.DNSQueries <= before.DNSQueries || after.BytesOut < before.BytesOut+300_000 || after.BytesIn <= before.BytesIn || after.LatencyMilliseconds <= 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	contains(t, "status", w.Output("status"), "LATENCY", "OUT", "DNS", "KiB")
}
