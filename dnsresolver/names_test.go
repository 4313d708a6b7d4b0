package dnsresolver

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// TestOwnNames: nobody else is asked for a name of our own, nor for it with anything behind it or before it.
func TestOwnNames(t *testing.T) {
	const name = "host.teleswap.internal"
	four, six := netip.MustParseAddr("192.0.0.254"), netip.MustParseAddr("100::2")
	wildcard := func() *fake { // a zone that knows whatever is asked
		return &fake{rcode: dns.RcodeSuccess}
	}
	for _, c := range []struct {
		what, asks string
		addr       netip.Addr
		qtype      uint16
		rcode      int
		answer     string // of the one record; empty: there is none
		asksOthers bool
	}{
		{"the name", name, four, dns.TypeA, 0, "192.0.0.254", false},
		{"in capitals", "HOST.Teleswap.INTERNAL", four, dns.TypeA, 0, "192.0.0.254", false},
		{"any record", name, four, dns.TypeANY, 0, "192.0.0.254", false},
		{"the other family", name, four, dns.TypeAAAA, 0, "", false},
		{"another type", name, four, dns.TypeHTTPS, 0, "", false},
		{"of IPv6", name, six, dns.TypeAAAA, 0, "100::2", false},
		{"of IPv6, the other family", name, six, dns.TypeA, 0, "", false},
		{"with a search domain of the cluster", name + ".default.svc.cluster.local", four, dns.TypeA, dns.RcodeNameError, "", false},
		{"with an office's", name + ".corp.example", four, dns.TypeAAAA, dns.RcodeNameError, "", false},
		{"below it", "db." + name, four, dns.TypeA, dns.RcodeNameError, "", false},
		{"the address", "254.0.0.192.in-addr.arpa", four, dns.TypePTR, 0, name + ".", false},
		{"another name of the zone", "other.teleswap.internal", four, dns.TypeA, 0, "", true},
		{"a name that only ends like it", "myhost.teleswap.internal", four, dns.TypeA, 0, "", true},
		{"a name that only begins like it", "host.teleswap.internals", four, dns.TypeA, 0, "", true},
		{"another address", "253.0.0.192.in-addr.arpa", four, dns.TypePTR, 0, "", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			pod := wildcard()
			r := &Resolver{Pod: pod, Search: []string{"default.svc.cluster.local"}, Names: map[string]netip.Addr{name: c.addr}}
			q, raw := query(t, c.asks, c.qtype)
			out, err := r.Query(t.Context(), raw)
			if err != nil {
				t.Fatal(err)
			}
			var a dns.Msg
			if err := a.Unpack(out); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, rr := range a.Answer {
				switch rr := rr.(type) {
				case *dns.A:
					got += rr.A.String()
				case *dns.AAAA:
					got += rr.AAAA.String()
				case *dns.PTR:
					got += rr.Ptr
				}
			}
			if a.Rcode != c.rcode || got != c.answer || a.Id != q.Id || !a.Response {
				t.Errorf("got %v, want rcode %d and %q", &a, c.rcode, c.answer)
			}
			if (pod.asked > 0) != c.asksOthers {
				t.Errorf("the pod's resolver was asked %d times", pod.asked)
			}
		})
	}
}

// TestOwnNamesSpeakEDNS: who asks with the option gets it back (RFC 6891 section 7).
func TestOwnNamesSpeakEDNS(t *testing.T) {
	r := &Resolver{Names: map[string]netip.Addr{"host.teleswap.internal.": netip.MustParseAddr("192.0.0.254")}}
	q := new(dns.Msg).SetQuestion("host.teleswap.internal.", dns.TypeA).SetEdns0(4096, false)
	raw, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.Query(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	var a dns.Msg
	if err := a.Unpack(out); err != nil || a.IsEdns0() == nil || len(a.Answer) != 1 {
		t.Errorf("got %v, %v", &a, err)
	}
}
