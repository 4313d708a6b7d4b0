package e2e

import (
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// outsidePods is an address in the cluster's range of pods that no node has: the nodes' own ranges are 10.244.0.0/24 to 10.244.9.0/24,
// whose addresses pods get one after the other, all of them in a long run.
const outsidePods = "10.244.250.250"

// TestFidelityOutbound calls others by TCP, UDP and ping, well and in vain.
func TestFidelityOutbound(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{objects: peerScene})
		peer := w.PodIP("app=peer")
		nobody := r.c.Do("lookup", map[string][]string{"name": {"nobody"}}).Addresses[0]
		// The node's rules for a Service follow its pods with a small delay.
		for _, addr := range []string{"peer:5100", "peer:5101"} {
			w.Eventually(addr+" to answer in the pod", func() string { return r.original.Do("dial", "addr", addr).Error })
		}
		w.Eventually("peer:5102 to answer in the pod by UDP", func() string {
			return r.original.Do("udp", "addr", "peer:5102", "text", "hello", "timeout", "2s").Error
		})
		const patient, big = "20s", "3000017"
		questions := []question{
			ask("get", "url", "http://"+net.JoinHostPort(peer, "5100")+"/bytes?n="+big, "sum", "1"),
			ask("post", "url", "http://peer:5100/sum", "n", big),
			ask("dial", "addr", peer+":1", "timeout", patient),
			ask("dial", "addr", "peer:1", "timeout", patient),
			ask("dial", "addr", nobody+":80", "timeout", patient),
			ask("dial", "addr", outsidePods+":80", "timeout", patient),
			ask("dial", "addr", "[fd00:77::1]:80", "timeout", patient),
			ask("dial", "addr", peer+":5100", "network", "tcp4", "timeout", patient),
			// A server that speaks first; it tells whom it sees. Then bytes, and the end of one side.
			ask("raw", "addr", "peer:5101", "say", "quit"),
			ask("raw", "addr", "peer:5101", "say", "sum", "n", big),
			ask("raw", "addr", peer+":5101", "say", "sum", "n", "0"),
			ask("raw", "addr", "peer:5101", "say", "reset"),
			ask("udp", "addr", "peer:5102", "text", "hello", "timeout", patient),
			ask("udp", "addr", peer+":5102", "text", "hello", "timeout", patient),
			ask("udp", "addr", peer+":5102", "text", "", "timeout", patient),
			ask("udp", "addr", peer+":5102", "n", "9000", "timeout", patient),
			ask("udp", "addr", peer+":5102", "n", "65507", "timeout", patient),
			ask("udp", "addr", peer+":5102", "n", "65508", "timeout", patient),
			ask("udp", "addr", peer+":1", "text", "nobody there", "timeout", patient),
			ask("ping", "addr", peer, "timeout", patient),
			ask("ping", "addr", r.c.IP, "timeout", patient),
			ask("ping", "addr", "127.0.0.1", "timeout", patient),
		}
		r.compare(questions)
		r.end()
	})
}

// inboundPorts are the target's: below 1024 and above, TCP and UDP.
const inboundPorts = `
apiVersion: v1
kind: Service
metadata: {name: inbound}
spec:
  selector: {app: app}
  ports:
  - {name: low, port: 81}
  - {name: any, port: 9001}
  - {name: six, port: 9002}
  - {name: own, port: 9003}
  - {name: loop, port: 9004}
  - {name: dns, port: 53, protocol: UDP}
  - {name: u1, port: 9001, protocol: UDP}
  - {name: u3, port: 9003, protocol: UDP}
`

// TestFidelityInbound listens in every way, and is called by way of the Service and of the pod.
func TestFidelityInbound(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{objects: inboundPorts, app: `
env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]`})
		listen := "exec " + w.Lab.Bin.Probe + ` -name local -listen :8080 -listen 0.0.0.0:81 -listen 0.0.0.0:9001 -listen '[::]:9002' ` +
			`-listen "$POD_IP:9003" -listen 127.0.0.1:9004 -udp :53 -udp 0.0.0.0:9001 -udp "$POD_IP:9003"`
		r.run = w.Teleswap("swap", "app:app", "--", "/bin/sh", "-c", listen)
		r.swapped()
		service := r.c.Do("lookup", map[string][]string{"name": {"inbound"}}).Addresses[0]
		pod := r.agentPod.Status.PodIP
		for _, host := range []string{service, pod} {
			for _, port := range []string{"81", "9001", "9002", "9003", "9004"} {
				far := r.c.Far("http://" + net.JoinHostPort(host, port))
				self := far.WaitLocal("local")
				if !strings.HasPrefix(self.Peer, r.c.IP+":") {
					t.Errorf("called at %s:%s the process sees %s, want the client's %s", host, port, self.Peer, r.c.IP)
				}
				if !strings.HasSuffix(self.Local, ":"+port) {
					t.Errorf("called at %s:%s the process was reached at %s", host, port, self.Local)
				}
			}
			for _, port := range []string{"53", "9001", "9003"} {
				addr := net.JoinHostPort(host, port)
				var o scene.Outcome
				w.Eventually("an answer by UDP of "+addr, func() string {
					o = r.c.Do("udp", map[string][]string{"addr": {addr}, "text": {"hello"}, "limit": {"2s"}})
					return o.Error
				})
				// The server tells its name and whom it sees; the client, from where it sent.
				if got, want := o.Body, "local "+o.Addresses[0]+" "; !strings.HasPrefix(got, want) {
					t.Errorf("by UDP at %s the process says %q, want that it saw the client's own address and port, %q", addr, got, want)
				}
			}
		}
		// The same client port is the same client: a kept connection's address is the client's own.
		o := r.c.Do("dial", map[string][]string{"addr": {pod + ":9001"}})
		if !o.OK {
			t.Errorf("dial: %+v", o)
		}
		r.end()
	})
}

// TestFidelitySidecars has the process and a sidecar call one another on the pod's loopback.
func TestFidelitySidecars(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{
			app: `volumeMounts: [{name: shared, mountPath: /shared}]`,
			pod: `volumes: [{name: shared, emptyDir: {}}]`,
			containers: `
- name: sidecar
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -listen, "127.0.0.1:7071", -raw, "127.0.0.1:7072", -udp, "127.0.0.1:7073", -listen, "[::1]:7074", -name, sidecar]
  volumeMounts: [{name: shared, mountPath: /shared}]
  securityContext: RESTRICTED`,
		})
		mine := []question{
			ask("get", "url", "http://127.0.0.1:7070/file?path=/proc/sys/kernel/ostype"),
			ask("get", "url", "http://127.0.0.1:7071/file?path=/proc/sys/kernel/ostype"),
			ask("get", "url", "http://localhost:7071/file?path=/proc/sys/kernel/ostype"),
			ask("get", "url", "http://[::1]:7074/file?path=/proc/sys/kernel/ostype"),
			ask("raw", "addr", "127.0.0.1:7072", "say", "sum", "n", "1000003"),
			ask("udp", "addr", "127.0.0.1:7073", "text", "hello", "timeout", "10s"),
			ask("dial", "addr", "127.0.0.1:7079"),
		}
		theirs := []question{
			ask("get", "url", "http://127.0.0.1:8080/file?path=/proc/sys/kernel/ostype"),
			ask("get", "url", "http://localhost:8080/file?path=/proc/sys/kernel/ostype"),
			ask("dial", "addr", "127.0.0.1:7079"),
		}
		sidecar := func(ip string) scene.Far { return r.c.Far("http://" + ip + ":7070") }
		wantMine := loopback(r.answers(r.original, r.originalPod, mine))
		wantTheirs := loopback(r.answers(sidecar(r.originalPod.Status.PodIP), r.originalPod, theirs))
		r.swap()
		far := sidecar(r.agentPod.Status.PodIP)
		// What listens in the pod is looked for from time to time.
		w.Eventually("the sidecar's port on the process's loopback", func() string {
			return r.local.Do("dial", "addr", "127.0.0.1:7071").Error
		})
		for what, pair := range map[string][2]map[string]string{
			"the process": {wantMine, loopback(r.answers(r.local, r.agentPod, mine))},
			"the sidecar": {wantTheirs, loopback(r.answers(far, r.agentPod, theirs))},
		} {
			for q, want := range pair[0] {
				if got := pair[1][q]; got != want {
					t.Errorf("%s asks %s\nin the pod: %s\nswapped:    %s", what, q, want, got)
				}
			}
		}
		// Whose answer it is, by name.
		for url, name := range map[string]string{"http://127.0.0.1:7071/self": "sidecar"} {
			if o := r.local.Do("get", "url", url); !strings.Contains(o.Body, `"name":"`+name+`"`) {
				t.Errorf("the process gets %s: %+v, want %s's answer", url, o, name)
			}
		}
		if o := far.Do("get", "url", "http://127.0.0.1:8080/self"); !strings.Contains(o.Body, `"name":"local"`) {
			t.Errorf("the sidecar gets the process's port: %+v, want the process's answer", o)
		}
		r.end()
	})
}

// loopback takes the ports out that the kernel chose.
func loopback(answers map[string]string) map[string]string {
	for q, a := range answers {
		answers[q] = loopbackPort.ReplaceAllString(a, "$1:PORT")
	}
	return answers
}

// loopbackPort is a port that the kernel chose: servers of the tests listen below.
var loopbackPort = regexp.MustCompile(`(127\.0\.0\.1|\[::1\]):[3-6]\d{4}`)
