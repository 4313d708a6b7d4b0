package dnsresolver

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver/wire"
)

// ownTTL is how long an answer about a name of our own may be kept, in seconds. It does not change while a process runs.
const ownTTL = 60

// own answers what concerns one of Names; ok is false where none is concerned. Nobody else is asked: not for what is
// below such a name, and not for the name with a search domain behind it, which a zone with a wildcard would answer.
func (r *Resolver) own(q *dns.Msg) (answer *dns.Msg, ok bool) {
	asked := q.Question[0]
	if asked.Qclass != dns.ClassINET && asked.Qclass != dns.ClassANY {
		return nil, false
	}
	name := dns.CanonicalName(asked.Name)
	for own, addr := range r.Names {
		own = dns.CanonicalName(own)
		a := new(dns.Msg)
		a.SetReply(q)
		a.RecursionAvailable = true
		head := dns.RR_Header{Name: asked.Name, Class: dns.ClassINET, Ttl: ownTTL}
		switch {
		case name == own:
			a.Answer = addressRecord(head, asked.Qtype, addr)
		case name == reverseOf(addr):
			if head.Rrtype = dns.TypePTR; asked.Qtype == dns.TypePTR || asked.Qtype == dns.TypeANY {
				a.Answer = []dns.RR{&dns.PTR{Hdr: head, Ptr: own}}
			}
		case strings.HasPrefix(name, own), dns.IsSubDomain(own, name):
			a.Rcode = dns.RcodeNameError
		default:
			continue
		}
		if q.IsEdns0() != nil {
			a.SetEdns0(wire.OwnSize, false)
		}
		return a, true
	}
	return nil, false
}

// addressRecord is the record of the type asked for; none where the address is of the other family, or the type another.
func addressRecord(head dns.RR_Header, qtype uint16, addr netip.Addr) []dns.RR {
	switch {
	case addr.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY):
		head.Rrtype = dns.TypeA
		return []dns.RR{&dns.A{Hdr: head, A: addr.AsSlice()}}
	case addr.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY):
		head.Rrtype = dns.TypeAAAA
		return []dns.RR{&dns.AAAA{Hdr: head, AAAA: addr.AsSlice()}}
	}
	return nil
}

func reverseOf(addr netip.Addr) string {
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return ""
	}
	return name
}
