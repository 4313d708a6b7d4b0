package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// sixScene has the peer behind Services of both families and of IPv6 alone.
const sixScene = peerScene + `
---
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {app: peer}
  ports: [{name: http, port: 5100}, {name: raw, port: 5101}, {name: udp, port: 5102, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: peer}
  ports: [{name: http, port: 5100}, {name: raw, port: 5101}, {name: udp, port: 5102, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: headless-six}
spec:
  clusterIP: None
  ipFamilies: [IPv6]
  selector: {app: peer}
  ports: [{name: http, port: 5100}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody-six}
spec:
  ipFamilies: [IPv6]
  selector: {app: nobody}
  ports: [{name: tcp, port: 80}]
`

// withIPv6 skips the test in a cluster that gives pods no IPv6 address.
func withIPv6(t *testing.T, c *scene.Client) {
	t.Helper()
	if c.IP6 == "" {
		t.Skip("this cluster has no IPv6")
	}
}

// TestFidelityIPv6 does over IPv6 what TestFidelityOutbound and TestFidelityDNS do over IPv4.
func TestFidelityIPv6(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{objects: sixScene, app: `
env: [{name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]`})
		withIPv6(t, r.c)
		w.PodIP("app=peer") // waits for the pod
		peer := scene.IPv6(w.Pods("app=peer")[0])
		addresses := func(name string) []string { return r.c.Do("lookup", map[string][]string{"name": {name}}).Addresses }
		six, nobody := addresses("six")[0], addresses("nobody-six")[0]
		for _, addr := range []string{"six:5100", "six:5101"} {
			w.Eventually(addr+" to answer in the pod", func() string { return r.original.Do("dial", "addr", addr).Error })
		}
		w.Eventually("six:5102 to answer in the pod by UDP", func() string {
			return r.original.Do("udp", "addr", "six:5102", "text", "hello", "timeout", "2s").Error
		})
		const patient, big = "20s", "3000017"
		at := func(host, port string) string { return net.JoinHostPort(host, port) }
		domain := "." + w.Namespace + ".svc.cluster.local."
		questions := []question{
			ask("file", "path", "/etc/hosts"),
			ask("get", "url", "http://"+at(peer, "5100")+"/bytes?n="+big, "sum", "1"),
			ask("post", "url", "http://six:5100/sum", "n", big),
			ask("dial", "addr", at(peer, "1"), "timeout", patient),
			ask("dial", "addr", at(six, "1"), "timeout", patient),
			ask("dial", "addr", at(nobody, "80"), "timeout", patient),
			ask("dial", "addr", at("fd00:10:244::fafa", "80"), "timeout", patient),
			ask("dial", "addr", at("fd00:77::1", "80"), "timeout", patient),
			ask("dial", "addr", at(peer, "5100"), "network", "tcp6", "timeout", patient),
			ask("dial", "addr", "peer"+domain+":5100", "network", "tcp6", "timeout", patient), // a Service of IPv4 alone
			ask("raw", "addr", "six:5101", "say", "quit"),                                     // tells whom it sees
			ask("raw", "addr", at(peer, "5101"), "say", "sum", "n", big),
			ask("raw", "addr", at(peer, "5101"), "say", "reset"),
			ask("raw", "addr", "dual:5101", "say", "quit"),
			ask("udp", "addr", "six:5102", "text", "hello", "timeout", patient),
			ask("udp", "addr", at(peer, "5102"), "text", "", "timeout", patient),
			ask("udp", "addr", at(peer, "5102"), "n", "9000", "timeout", patient),
			ask("udp", "addr", at(peer, "5102"), "n", "65507", "timeout", patient),
			ask("udp", "addr", at(peer, "1"), "text", "nobody there", "timeout", patient),
			ask("ping", "addr", peer, "timeout", patient),
			ask("ping", "addr", r.c.IP6, "timeout", patient),
			ask("ping", "addr", "::1", "timeout", patient),
		}
		for _, name := range []string{"dual", "six", "headless-six", "peer"} {
			questions = append(questions, ask("lookup", "name", name))
			for _, kind := range []string{"A", "AAAA", "SRV"} {
				if kind == "SRV" {
					name = "_http._tcp." + name
				}
				questions = append(questions,
					ask("dns", "name", name+domain, "type", kind, "net", "udp"), ask("dns", "name", name+domain, "type", kind, "net", "tcp", "edns", "4096"))
			}
		}
		for _, ip := range []string{peer, six} {
			questions = append(questions, ask("dns", "name", reverse6(ip), "type", "PTR", "net", "udp"))
		}
		r.compare(questions)
		r.addresses6()
		r.end()
	})
}

// addresses6 looks for both of the pod's addresses on the process's interface, and in its environment.
func (r *row) addresses6() {
	r.t.Helper()
	ip, ip6 := r.agentPod.Status.PodIP, scene.IPv6(r.agentPod)
	mine := strings.Join(r.local.Self().Addresses, " ")
	for _, want := range []string{ip + "/", ip6 + "/"} {
		if !strings.Contains(mine, want) {
			r.t.Errorf("addresses %s, want the pod's, %s, among them", mine, want)
		}
	}
	if want := "POD_IPS=" + ip + "," + ip6; !slices.Contains(r.local.Env(), want) {
		r.t.Errorf("no %s in the environment", want)
	}
}

// inboundSix are the target's ports over IPv6.
const inboundSix = `
apiVersion: v1
kind: Service
metadata: {name: inbound-six}
spec:
  ipFamilies: [IPv6]
  selector: {app: app}
  ports:
  - {name: low, port: 81}
  - {name: any, port: 9001}
  - {name: six, port: 9002}
  - {name: own, port: 9003}
  - {name: loop, port: 9004}
  - {name: dns, port: 53, protocol: UDP}
  - {name: u2, port: 9002, protocol: UDP}
  - {name: u3, port: 9003, protocol: UDP}
`

// TestFidelityIPv6Inbound listens in every way, and is called over IPv6 by way of the Service and of the pod.
func TestFidelityIPv6Inbound(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{objects: inboundSix, app: `
env: [{name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]`})
		withIPv6(t, r.c)
		listen := `own="[${POD_IPS#*,}]"; exec ` + w.Lab.Bin.Probe + ` -name local -listen :8080 -listen '[::]:81' -listen :9001 -listen '[::]:9002' ` +
			`-listen "$own:9003" -listen '[::1]:9004' -udp :53 -udp '[::]:9002' -udp "$own:9003"`
		r.run = w.Teleswap("swap", "app:app", "--", "/bin/sh", "-c", listen)
		r.swapped()
		service := r.c.Do("lookup", map[string][]string{"name": {"inbound-six"}}).Addresses[0]
		for _, host := range []string{service, scene.IPv6(r.agentPod)} {
			for _, port := range []string{"81", "9001", "9002", "9003", "9004"} {
				self := r.c.Far("http://" + net.JoinHostPort(host, port)).WaitLocal("local")
				// What listens on ::1 alone is reached by a socket of its own loopback, see docs/architecture.md.
				if from := "[" + r.c.IP6 + "]:"; port != "9004" && !strings.HasPrefix(self.Peer, from) {
					t.Errorf("called at %s:%s the process sees %s, want the client's %s", host, port, self.Peer, from)
				}
				if !strings.HasSuffix(self.Local, "]:"+port) {
					t.Errorf("called at %s:%s the process was reached at %s", host, port, self.Local)
				}
			}
			for _, port := range []string{"53", "9002", "9003"} {
				addr := net.JoinHostPort(host, port)
				var o scene.Outcome
				w.Eventually("an answer by UDP of "+addr, func() string {
					o = r.c.Do("udp", map[string][]string{"addr": {addr}, "text": {"hello"}, "limit": {"2s"}})
					return o.Error
				})
				if got, want := o.Body, "local "+o.Addresses[0]+" "; !strings.HasPrefix(got, want) {
					t.Errorf("by UDP at %s the process says %q, want that it saw the client's own address and port, %q", addr, got, want)
				}
			}
		}
		r.end()
	})
}

// reverse6 is the name of RFC 3596, section 2.5.
func reverse6(ip string) string {
	var b strings.Builder
	a := netip.MustParseAddr(ip).As16()
	for _, octet := range slices.Backward(a[:]) {
		fmt.Fprintf(&b, "%x.%x.", octet&15, octet>>4)
	}
	return b.String() + "ip6.arpa."
}
