package pac

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

var rules = Rules{
	Hosts:   []string{"service-b", "Kubernetes."},
	Domains: []string{"svc.cluster.local", ".shop", "svc"},
	Ranges:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.244.1.7/24"), netip.MustParsePrefix("fd00:10:96::/108")},
}

// TestScript has the script decide, by the JavaScript engine that there is.
func TestScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("the script is run by node, which is not here:", err)
	}
	text, err := Script("127.0.0.1:1080", rules)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{
		"service-b": true, "SERVICE-B": true, "service-b.": true, "kubernetes": true, "service-bb": false, "localhost": false,
		"web.shop": true, "a.b.svc.cluster.local": true, "shop": false, "webshop": false, "example.com": false, "svc.cluster.local.example.com": false,
		"hasOwnProperty": false, "constructor": false, "": false,
		"10.96.0.1": true, "10.111.255.255": true, "10.112.0.0": false, "10.95.255.255": false, "10.244.1.200": true, "10.244.2.1": false, "10.96.0.256": false, "10.96.1": false,
		"fd00:10:96::1": true, "[fd00:10:96::f:ffff]": true, "fd00:10:96::10:0": false, "fd00:10:96:0:0:0:0:1": true, "fd00:10:96::0.1.2.3": true, "::1": false, "::ffff:10.96.0.1": false, "fe80::1%eth0": false,
		"1::2::3": false,
	}
	hosts := make([]string, 0, len(want))
	for h := range want {
		hosts = append(hosts, h)
	}
	list, err := json.Marshal(hosts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "-e", text+"\nconsole.log(JSON.stringify("+string(list)+".map(function (h) { return FindProxyForURL('http://' + h + '/', h); })));")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run the script: %v", err)
	}
	var got []string
	if err := json.Unmarshal(out, &got); err != nil || len(got) != len(hosts) {
		t.Fatalf("the script said %s, %v", out, err)
	}
	for i, h := range hosts {
		answer := "DIRECT"
		if want[h] {
			answer = "PROXY 127.0.0.1:1080; SOCKS5 127.0.0.1:1080"
		}
		if got[i] != answer {
			t.Errorf("%q: %s, want %s", h, got[i], answer)
		}
	}
}

func TestScriptWithoutRules(t *testing.T) {
	text, err := Script("[::1]:1080", Rules{})
	if err != nil || !strings.Contains(text, "var hosts = {};") || !strings.Contains(text, "var ranges = [];") || strings.Contains(text, "%!") {
		t.Errorf("%v in %s", err, text[:200])
	}
}

func FuzzScript(f *testing.F) {
	f.Add("a\";alert(1);\"", "x\ny", "127.0.0.1:1")
	f.Fuzz(func(t *testing.T, host, domain, proxy string) {
		text, err := Script(proxy, Rules{Hosts: []string{host}, Domains: []string{domain}})
		if err != nil {
			t.Fatal(err)
		}
		// Nothing that was given may leave its string: the lines are as many as without it.
		if plain, _ := Script("p", Rules{}); strings.Count(text, "\n") != strings.Count(plain, "\n") {
			t.Errorf("the script has more lines with %q, %q, %q", host, domain, proxy)
		}
	})
}
