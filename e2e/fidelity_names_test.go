package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestFidelityHostname compares what the process calls itself, and what its name leads to.
func TestFidelityHostname(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{
			pod: `
hostname: tester
subdomain: tests
hostAliases: [{ip: 192.0.2.77, hostnames: [alias, alias.example.com]}]`,
			objects: `
apiVersion: v1
kind: Service
metadata: {name: tests}
spec:
  clusterIP: None
  selector: {app: app}
  ports: [{port: 8080}]
`,
		})
		r.compare([]question{
			ask("file", "path", "/etc/hostname"),
			ask("file", "path", "/etc/hosts"),
			ask("lookup", "name", "tester"),
			ask("lookup", "name", "alias"),
			ask("lookup", "name", "alias.example.com"),
			ask("lookup", "name", "localhost"),
		})
		// Its name is known to all, as soon as the cluster's DNS has heard of the pod.
		full := "tester.tests." + w.Namespace + ".svc.cluster.local"
		ip := r.agentPod.Status.PodIP
		// The pod's own /etc/hosts has its addresses of both families, the headless Service has one.
		both := strings.TrimSpace(ip + " " + scene.IPv6(r.agentPod))
		for far, want := range map[scene.Far]string{r.local: both, r.c.Far("http://" + r.c.IP + ":8099"): ip} {
			w.Eventually("the pod by its name "+full, func() string {
				if o := far.Do("lookup", "name", full); strings.Join(o.Addresses, " ") != want {
					return fmt.Sprintf("%+v", o)
				}
				return ""
			})
		}
		self := r.local.Self()
		if self.Hostname != "tester" {
			t.Errorf("hostname %q, want that of the pod's specification, tester", self.Hostname)
		}
		if !strings.Contains(strings.Join(self.Addresses, " "), ip+"/") {
			t.Errorf("addresses %v, want the pod's, %s, among them", self.Addresses, ip)
		}
		r.end()
	})
}

// TestFidelityDNS asks the pod's nameserver for every kind of record in every way.
func TestFidelityDNS(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{
			pod: `
dnsConfig:
  searches: [more.example.com]
  options: [{name: ndots, value: "3"}, {name: timeout, value: "4"}, {name: edns0}]`,
			objects: peerScene,
		})
		domain := "." + w.Namespace + ".svc.cluster.local."
		peer := w.PodIP("app=peer")
		service := r.c.Do("lookup", map[string][]string{"name": {"peer"}}).Addresses
		if len(service) != 1 {
			t.Fatalf("the Service's addresses are %v", service)
		}
		questions := []question{ask("file", "path", "/etc/resolv.conf")}
		for _, name := range []string{"peer", "headless", "external", "peer" + domain, "nothing" + domain, "kubernetes.default"} {
			questions = append(questions, ask("lookup", "name", name))
		}
		for _, q := range [][2]string{
			{"peer" + domain, "A"},
			{"peer" + domain, "AAAA"},
			{"peer" + domain, "TXT"},
			{"peer" + domain, "MX"},
			{"_http._tcp.peer" + domain, "SRV"},
			{"_http._tcp.headless" + domain, "SRV"},
			{"headless" + domain, "A"},
			{"external" + domain, "A"},
			{"external" + domain, "CNAME"},
			{"nothing" + domain, "A"},
			{"nothing" + domain, "SRV"},
			{"dns-version.cluster.local.", "TXT"},
			{reverse(peer), "PTR"},
			{reverse(service[0]), "PTR"},
			{strings.ReplaceAll(peer, ".", "-") + "." + w.Namespace + ".pod.cluster.local.", "A"},
		} {
			for _, how := range [][]string{{"net", "udp"}, {"net", "tcp"}, {"net", "udp", "edns", "1232"}, {"net", "tcp", "edns", "4096"}} {
				questions = append(questions, ask("dns", append([]string{"name", q[0], "type", q[1]}, how...)...))
			}
		}
		r.compare(questions)
		r.end()
	})
}

func reverse(ip string) string {
	parts := strings.Split(ip, ".")
	return parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0] + ".in-addr.arpa."
}
