package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestWaysExpose leads the target's port to another port of the process, and adds ports that the target has not: TCP and
// UDP, below 1024 and above, under the restricted Pod Security Standard.
func TestWaysExpose(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{})
		r.run = w.Teleswap("swap", "app:app", "--expose", "3000:8080", "--expose", "9001,81", "--expose=5353:53/udp", "--expose=9001/udp",
			"--", w.Lab.Bin.Probe, "-name", "local", "-listen", ":8080")
		r.run.WaitStderr(`8080 \(the process's 3000\)`)
		contains(t, "the warning", r.run.WaitStderr(`^! .*nothing listens`), "port 3000", "--expose 8080:8080")
		r.notSwapped()
		r.end()
		w.WaitUnchanged()

		r.run = w.Teleswap("swap", "app:app", "--expose", "3000:8080", "--expose", "9001,81", "--expose=5353:53/udp", "--expose=9001/udp",
			"--", w.Lab.Bin.Probe, "-name", "local", "-listen", ":3000", "-listen", "127.0.0.1:9001", "-listen", "0.0.0.0:81", "-udp", ":5353", "-udp", ":9001")
		r.swapped()
		pod := r.agentPod.Status.PodIP
		for base, listening := range map[string]string{
			"http://app": ":3000", "http://" + pod + ":8080": ":3000", "http://" + pod + ":9001": ":9001", "http://" + pod + ":81": ":81",
		} {
			self := r.c.Far(base).WaitLocal("local")
			if !strings.HasSuffix(self.Listening, listening) || !strings.HasPrefix(self.Peer, r.c.IP+":") {
				t.Errorf("%s leads to %s and shows %s, want %s and the client's %s", base, self.Listening, self.Peer, listening, r.c.IP)
			}
		}
		for _, port := range []string{"53", "9001"} {
			r.answersDatagrams(r.c.Far("http://127.0.0.1:8099"), net.JoinHostPort(pod, port))
		}
		if o := r.c.Do("dial", url.Values{"addr": {pod + ":3000"}}); o.Errno != "ECONNREFUSED" {
			t.Errorf("the process's own port in the pod: %+v, want it refused", o)
		}
		if got, want := fmt.Sprint(r.status().Ports), "[{81 81} {8080 3000} {9001 9001} {53 5353} {9001 9001}]"; got != want {
			t.Errorf("status says %s, want %s", got, want)
		}
		r.end()
	})
}

// session is what status says of one, as far as ports go.
type session struct {
	ID    string
	Ports []struct{ Port, Process int }
}

// status is the one session's.
func (r *row) status() session {
	r.t.Helper()
	var status struct{ Sessions []session }
	if err := json.Unmarshal([]byte(r.w.Output("status", "-o", "json")), &status); err != nil || len(status.Sessions) != 1 {
		r.t.Fatalf("status: %v, %+v", err, status)
	}
	return status.Sessions[0]
}

// notSwapped checks that the original serves, and the agent is not Ready.
func (r *row) notSwapped() {
	r.t.Helper()
	if strings.Contains(r.run.Stderr(), "swapped:") {
		r.t.Error("swapped, though the process does not listen")
	}
	for _, p := range r.w.Pods(scene.SessionLabel) {
		if scene.Ready(p) {
			r.t.Error("the agent is Ready, though the process does not listen")
		}
	}
	r.c.Far("http://app").WaitLocal("original")
}

// answersDatagrams waits until the process answers those that a probe sends, and sees it send them.
func (r *row) answersDatagrams(from scene.Far, addr string) {
	r.t.Helper()
	var o scene.Outcome
	r.w.Eventually("an answer by UDP of "+addr, func() string {
		o = from.Do("udp", "addr", addr, "text", "hello", "timeout", "2s")
		return o.Error
	})
	if !strings.HasPrefix(o.Body, "local ") {
		r.t.Errorf("by UDP at %s: %+v, want the process's answer", addr, o)
	}
}

// onLaptop starts the probe on the laptop, outside of any sandbox, and returns the port of each address that it
// listens on, in order. It waits until it listens on all.
func onLaptop(w *scene.World, args ...string) []string {
	w.T.Helper()
	run := w.Start(scene.How{}, append([]string{w.Lab.Bin.Probe}, args...)...)
	want := 0
	for _, a := range args {
		if a == "-listen" || a == "-udp" {
			want++
		}
	}
	var ports []string
	w.Eventually("a probe of the laptop to listen", func() string {
		lines := listeningLine.FindAllStringSubmatch(run.Stdout(), -1)
		if len(lines) < want {
			return "it says " + run.Stdout() + run.Stderr()
		}
		for _, line := range lines {
			ports = append(ports, line[1])
		}
		return ""
	})
	return ports
}

var listeningLine = regexp.MustCompile(`(?m)^listening on .*:(\d+)$`)

// curl asks from the laptop, outside of any sandbox.
func curl(w *scene.World, address string) (status int, body string) {
	w.T.Helper()
	run := w.Start(scene.How{}, "curl", "--silent", "--show-error", "--max-time", "20", address)
	return run.Wait(), run.Stdout()
}

// publishedPorts are the laptop's ports that a swap tells, by the process's.
func publishedPorts(run *scene.Run) map[string]string {
	ports := map[string]string{}
	for _, m := range publishedLine.FindAllStringSubmatch(run.Stderr(), -1) {
		ports[m[2]] = m[1]
	}
	return ports
}

var publishedLine = regexp.MustCompile(`(?m)published: .*:(\d+) leads to the process's port (\d+)$`)

// TestWaysPublish reaches the process's ports from the laptop, and is refused ports that are taken before anything is changed.
func TestWaysPublish(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{})
		laptop := onLaptop(w, "-listen", "127.0.0.1:0", "-name", "laptop")
		taken := laptop[0]
		writes := w.WatchWrites()
		refused(t, w.Teleswap("swap", "app:app", "--publish", "0:8080", "--publish", taken+":8080", "--", "sleep", "9"), 2,
			"--publish", "127.0.0.1:"+taken, "taken", "0:8080")
		untouched(t, w, writes)

		r.swap2(t, []string{"--publish", "0:8080", "--publish", "0:9229,0:9230", "--publish", "0:5353/udp", "--publish", "0:7"},
			"-listen", "127.0.0.1:9229", "-listen", "[::1]:9230", "-udp", ":5353")
		ports := publishedPorts(r.run)
		for _, inside := range []string{"8080", "9229", "9230"} {
			status, body := curl(w, "http://127.0.0.1:"+ports[inside]+"/self")
			var self scene.Self
			if err := json.Unmarshal([]byte(body), &self); err != nil || status != 0 || self.Name != "local" || !strings.HasSuffix(self.Listening, ":"+inside) {
				t.Errorf("port %s by the laptop's %s: curl ended with %d, %v: %s", inside, ports[inside], status, err, body)
			}
		}
		from := "http://127.0.0.1:" + taken + "/udp?"
		w.Eventually("an answer by UDP", func() string {
			_, body := curl(w, from+url.Values{"addr": {"127.0.0.1:" + ports["5353"]}, "text": {"hello"}, "timeout": {"2s"}}.Encode())
			if !strings.Contains(body, `"local 127.0.0.1:`) {
				return body
			}
			return ""
		})
		if status, body := curl(w, "http://127.0.0.1:"+ports["7"]); status == 0 || body != "" {
			t.Errorf("a port where the process does not listen: curl ended with %d: %s", status, body)
		}
		id := r.status().ID
		again := w.Teleswap("swap", "app:app", "--publish", ports["8080"]+":80", "--", "sleep", "9")
		refused(t, again, 2, "--publish", "127.0.0.1:"+ports["8080"], "session "+id, "teleswap leave "+id)
		contains(t, "status", w.Output("status"), "this machine's 127.0.0.1:"+ports["8080"]+" leads to the process's 8080")
		r.end()
		if status, _ := curl(w, "http://127.0.0.1:"+ports["8080"]); status != curlRefused {
			t.Errorf("after the end: curl ended with %d, want %d: the port is still held", status, curlRefused)
		}
	})
}

// curlRefused is curl's status where the connection was refused (curl(1)).
const curlRefused = 7

// swap2 is swap with flags before the command.
func (r *row) swap2(t *testing.T, flags []string, more ...string) {
	t.Helper()
	r.run = r.w.Teleswap(slices.Concat([]string{"swap", "app:app"}, flags, []string{"--"}, probe(r.w, more...))...)
	r.swapped()
}

// TestWaysHostName has the process call servers on the laptop by host.teleswap.internal.
func TestWaysHostName(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{})
		// -udp comes first in what the probe tells.
		laptop := onLaptop(w, "-udp", "127.0.0.1:0", "-listen", "127.0.0.1:0", "-listen", "[::1]:0", "-name", "laptop")
		hosts := r.original.File("/etc/hosts")
		r.swap()
		const host = "host.teleswap.internal"
		for _, port := range laptop[1:] {
			if o := r.local.Do("get", "url", "http://"+host+":"+port+"/self"); !strings.Contains(o.Body, `"name":"laptop"`) {
				t.Errorf("the process asks for port %s of the laptop: %+v", port, o)
			}
		}
		if o := r.local.Do("udp", "addr", host+":"+laptop[0], "text", "hello", "timeout", "20s"); !strings.HasPrefix(o.Body, "laptop 127.0.0.1:") {
			t.Errorf("the process sends to the laptop: %+v", o)
		}
		for _, path := range []string{"dial", "udp"} {
			if o := r.local.Do(path, "addr", host+":1", "text", "x", "timeout", "20s"); o.Errno != "ECONNREFUSED" {
				t.Errorf("%s a port of the laptop where nobody is: %+v, want ECONNREFUSED", path, o)
			}
		}
		if o := r.local.Do("dial", "addr", "127.0.0.1:"+laptop[1]); o.Errno != "ECONNREFUSED" {
			t.Errorf("the process's own loopback: %+v, want that it is not the laptop's", o)
		}
		if o := r.local.Do("lookup", "name", host); strings.Join(o.Addresses, " ") != "192.0.0.254" {
			t.Errorf("lookup: %+v", o)
		}
		for _, q := range []struct{ name, kind, want, never string }{
			{host, "A", "192.0.0.254", "NXDOMAIN"},
			{host, "AAAA", "NOERROR", "NXDOMAIN"},
			{host + "." + w.Namespace + ".svc.cluster.local", "A", "NXDOMAIN", "192.0.0"},
			{host + ".corp.example", "A", "NXDOMAIN", "192.0.0"},
		} {
			for _, network := range []string{"udp", "tcp"} {
				answer := r.local.Ask("dns", "name", q.name+".", "type", q.kind, "net", network)
				if !strings.Contains(answer, q.want) || strings.Contains(answer, q.never) {
					t.Errorf("%s %s by %s: %s, want %s", q.kind, q.name, network, answer, q.want)
				}
			}
		}
		var names []string
		for _, p := range []corev1.Pod{r.agentPod, r.originalPod} {
			names = append(names, p.Name, "POD_NAME")
			for _, ip := range p.Status.PodIPs {
				names = append(names, ip.IP+"\t", "POD_IP\t")
			}
		}
		own := strings.NewReplacer(names...)
		if got, want := own.Replace(r.local.File("/etc/hosts")), own.Replace(hosts); got != want {
			t.Errorf("/etc/hosts is not the pod's:\n%s\nwant\n%s", got, want)
		}
		r.end()
	})
}

// TestWaysToPodFromPod has process and sidecar call one another at ports of the pod's loopback that the cluster knows nothing of.
func TestWaysToPodFromPod(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{containers: `
- name: sidecar
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -listen, "127.0.0.1:7071", -name, sidecar]
  ports: [{name: side, containerPort: 7070}]
  securityContext: RESTRICTED`})
		for _, tc := range []struct {
			args  []string
			parts []string
		}{
			{[]string{"--from-pod", "7070"}, []string{"--from-pod 7070", "container sidecar", "--to-pod"}},
			{[]string{"--expose", "8080:7070"}, []string{"--expose 8080:7070", "container sidecar", ":sidecar"}},
			{[]string{"--to-pod", "8080"}, []string{"--to-pod 8080", "the target's own"}},
			{[]string{"--to-pod", "8126", "--from-pod", "8126"}, []string{"--to-pod 8126", "--from-pod"}},
			{[]string{"--to-pod", "8126,8126"}, []string{"8126", "twice"}},
			{[]string{"--expose", "8080:70000"}, []string{"--expose 8080:70000", "70000", "1 to 65535"}},
			{[]string{"--publish", "http"}, []string{"--publish http", "[ADDRESS:]PORT"}},
		} {
			writes := w.WatchWrites()
			refused(t, w.Teleswap(slices.Concat([]string{"swap", "app:app"}, tc.args, []string{"--", "sleep", "9"})...), 2, tc.parts...)
			untouched(t, w, writes)
		}

		r.swap2(t, []string{"--to-pod", "7071,7075,7076/udp", "--from-pod", "15100,80", "--from-pod", "8125/udp"},
			"-listen", "127.0.0.1:15100", "-listen", ":80", "-udp", "127.0.0.1:8125")
		sidecar := r.c.Far("http://" + r.agentPod.Status.PodIP + ":7070")
		for _, port := range []string{"15100", "80"} { // the first is the agent's own, if nobody wants it
			for _, host := range []string{"127.0.0.1", "localhost"} {
				if o := sidecar.Do("get", "url", "http://"+net.JoinHostPort(host, port)+"/self"); !strings.Contains(o.Body, `"name":"local"`) {
					t.Errorf("the sidecar asks for port %s of %s: %+v, want the process's answer", port, host, o)
				}
			}
			if o := r.c.Do("dial", url.Values{"addr": {r.agentPod.Status.PodIP + ":" + port}}); o.Errno != "ECONNREFUSED" {
				t.Errorf("another pod dials port %s: %+v, want it refused", port, o)
			}
		}
		r.answersDatagrams(sidecar, "127.0.0.1:8125")

		if o := r.local.Do("get", "url", "http://127.0.0.1:7071/self"); !strings.Contains(o.Body, `"name":"sidecar"`) {
			t.Errorf("the process asks the sidecar: %+v", o)
		}
		// Nobody listens there yet: what the flag makes is there all the same, and is reset as soon as the pod has refused, which
		// may be before the process has looked at its connect.
		if o := r.local.Do("dial", "addr", "127.0.0.1:7075"); !o.OK && o.Errno != "ECONNRESET" {
			t.Errorf("the process dials a port that is wanted: %+v", o)
		}
		if o := r.local.Do("dial", "addr", "127.0.0.1:7077"); o.Errno != "ECONNREFUSED" {
			t.Errorf("the process dials a port that is not: %+v", o)
		}
		for _, network := range []string{"tcp", "udp"} {
			port := map[string]string{"tcp": "7075", "udp": "7076"}[network]
			if o := sidecar.Do("listen", "addr", "127.0.0.1:"+port, "network", network); !o.OK {
				t.Fatalf("the sidecar cannot listen: %+v", o)
			}
		}
		w.Eventually("the sidecar's answer", func() string { // its port's place is changed when it is seen to listen
			o := r.local.Do("get", "url", "http://127.0.0.1:7075/self")
			if !strings.Contains(o.Body, `"name":"sidecar"`) {
				return fmt.Sprintf("%+v", o)
			}
			o = r.local.Do("udp", "addr", "127.0.0.1:7076", "text", "hello", "timeout", "2s")
			if !strings.HasPrefix(o.Body, "sidecar ") {
				return fmt.Sprintf("%+v", o)
			}
			return ""
		})
		if strings.Contains(r.run.Stderr(), "\n! ") {
			t.Errorf("warnings:\n%s", r.run.Stderr())
		}
		r.end()
	})
}
