package session

import (
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func TestAlso(t *testing.T) {
	a, err := ParseAlso([]string{"192.0.2.0/24", "203.0.113.7", "DB.example.com", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(name, ip string) []byte {
		var q, m dns.Msg
		q.SetQuestion(name, dns.TypeA)
		m.SetReply(&q)
		m.Answer = []dns.RR{
			&dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: "x."},
			&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip)},
		}
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	a.answered(answer("db.Example.com.", "198.51.100.1"))
	a.answered(answer("other.example.com.", "198.51.100.2"))
	a.answered([]byte("no message"))
	r := routes{Also: a, Own: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	for dst, want := range map[string]way{
		"192.0.2.10": viaCluster, "203.0.113.7": viaCluster, "203.0.113.8": viaLaptop, "2001:db8::1": viaCluster,
		"198.51.100.1": viaCluster, "198.51.100.2": viaLaptop, "::ffff:192.0.2.10": viaCluster, "192.0.2.1": viaCluster,
	} {
		if got := r.choose(netip.MustParseAddr(dst), true); got != want {
			t.Errorf("%s goes by the %s, want %s", dst, got, want)
		}
	}
	for _, bad := range []string{"", "a/b", "300.1.1.1/24", "a b", "host:80"} {
		if _, err := ParseAlso([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	var none *Also
	none.answered(answer("db.example.com.", "198.51.100.1"))
	if none.has(netip.MustParseAddr("198.51.100.1")) {
		t.Error("nil has something")
	}
}
