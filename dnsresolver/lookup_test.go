package dnsresolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestNamesAreLookedUpAsInThePod(t *testing.T) {
	resolv, err := dns.ClientConfigFromReader(strings.NewReader("search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"))
	if err != nil {
		t.Fatal(err)
	}
	zone := map[string]string{"web.shop.svc.cluster.local.": "10.96.0.7", "db.data.svc.cluster.local.": "10.96.0.8", "example.com.": "192.0.2.1"}
	n := &Names{
		Resolv: resolv, Hosts: ParseHosts([]byte("10.244.0.9 web-pod\n::1 ip6-localhost\n")),
		Query: func(_ context.Context, msg []byte) ([]byte, error) {
			q, a := new(dns.Msg), new(dns.Msg)
			if err := q.Unpack(msg); err != nil {
				return nil, err
			}
			name := q.Question[0].Name
			a.SetReply(q)
			ip, known := zone[name]
			switch {
			case strings.HasPrefix(name, "broken."):
				a.Rcode = dns.RcodeServerFailure
			case !known:
				a.Rcode = dns.RcodeNameError
			case q.Question[0].Qtype == dns.TypeA:
				a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip)}}
			}
			return a.Pack()
		},
	}
	for name, want := range map[string]string{
		"web": "[10.96.0.7]", "db.data": "[10.96.0.8]", "example.com": "[192.0.2.1]", "example.com.": "[192.0.2.1]", "WEB-POD": "[10.244.0.9]",
	} {
		if got, err := n.Lookup(t.Context(), name); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v, want %s", name, got, err, want)
		}
	}
	var failed *net.DNSError
	if _, err := n.Lookup(t.Context(), "nobody"); !errors.As(err, &failed) || !failed.IsNotFound {
		t.Errorf("a name that does not exist: %v", err)
	}
	if _, err := n.Lookup(t.Context(), "broken"); !errors.As(err, &failed) || failed.IsNotFound {
		t.Errorf("a resolver that fails: %v", err)
	}
	n.System = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.9")}, nil
	}
	if got, err := n.Lookup(t.Context(), "nobody"); err != nil || fmt.Sprint(got) != "[192.0.2.9]" {
		t.Errorf("by the laptop's system: %v, %v", got, err)
	}
}

// TestDialNames looks a name up once and tries its addresses in turn; an address is not looked up.
func TestDialNames(t *testing.T) {
	refused := errors.New("refused")
	for address, want := range map[string]string{
		"two:http":     "lookup two; dial 192.0.2.1:80; dial [2001:db8::1]:80; connected",
		"closed:81":    "lookup closed; dial 192.0.2.1:81; dial 192.0.2.1:81; refused",
		"[::1]:80":     "dial [::1]:80; refused",
		"none:80":      "lookup none; no such host",
		"two":          "address two: missing port in address",
		"two:nonsense": "lookup tcp/nonsense: unknown port",
	} {
		var did []string
		_, err := DialNames("tcp", address, func(host string) ([]netip.Addr, error) {
			did = append(did, "lookup "+host)
			first := netip.MustParseAddr("192.0.2.1")
			switch host {
			case "two":
				return []netip.Addr{first, netip.MustParseAddr("2001:db8::1")}, nil
			case "closed":
				return []netip.Addr{first, first}, nil
			}
			return nil, errors.New("no such host")
		}, func(to netip.AddrPort) (net.Conn, error) {
			did = append(did, "dial "+to.String())
			if to.Addr().Is6() && !to.Addr().IsLoopback() {
				return nil, nil
			}
			return nil, refused
		})
		if err == nil {
			did = append(did, "connected")
		} else {
			did = append(did, err.Error())
		}
		if got := strings.Join(did, "; "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", address, got, want)
		}
	}
}
