// Package dnsresolver answers DNS queries of a process that stands for a pod: the pod's resolver is asked first, and
// the laptop's for the names that the pod's does not know. It knows DNS messages only: how a message travels is
// the business of an Exchanger.
package dnsresolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver/wire"
)

const (
	// finalTime is how long the only resolver that may know a name has to answer. The C library waits 5 s, then asks
	// again: an answer before that, if only SERVFAIL, is worth more.
	finalTime = 4500 * time.Millisecond
	// podTime is how long the pod's resolver has when the laptop's is asked next.
	podTime = 2 * time.Second
	// laptopTime is what the laptop's has then.
	laptopTime = 2500 * time.Millisecond
	// clusterDomain is the cluster's whatever the search domains are. A cluster may have another one, but then it is
	// among the search domains.
	clusterDomain = "cluster.local."
)

// ErrNoQuery is returned for bytes that are not a DNS query.
var ErrNoQuery = wire.ErrNone

// Exchanger carries one DNS message (RFC 1035, without the length prefix of TCP) to a resolver and returns its answer.
type Exchanger interface {
	Exchange(ctx context.Context, msg []byte) ([]byte, error)
}

// Resolver asks the pod's resolver, then the laptop's. It is safe for concurrent use once its fields are set.
//
// The pod's word is final where it knows the name at all (NOERROR, also without records of the type asked for), and
// for the cluster's names: those of one label, below a search domain, or below cluster.local. A resolver that refuses a
// name of one label has no zone for it, and no one else may have: that is NXDOMAIN, and so it is where the resolver
// fails, as one that forwards nowhere does, and the laptop's knows that there is no such name. Otherwise (NXDOMAIN,
// REFUSED, SERVFAIL, no answer) the laptop is asked. If it does not know the name either, the answer is NXDOMAIN
// if one of them said so, else SERVFAIL.
//
// A name that all who were asked said does not exist is not asked for again as long as their SOA records allow, at most
// 30 s (RFC 2308). What exists is always asked for.
type Resolver struct {
	// Pod and Laptop are the resolvers. Nil: there is none, as if it never answered.
	Pod, Laptop Exchanger
	// Search are the pod's search domains, with or without a final dot.
	Search []string
	// Names are answered without asking anybody, each with its one address (A or AAAA, and PTR the other way); for other
	// types there are no records. Below such a name, and with anything behind it, there is nothing (NXDOMAIN).
	Names map[string]netip.Addr
	// Answered is told the addresses of each answer that has some, before the answer is returned. Nil: nobody is told.
	Answered func(fromLaptop bool, addrs []netip.Addr)
	// Logger: nil discards. Names are logged at debug level only.
	Logger *slog.Logger

	unknown negatives
}

// answer is what one resolver said. Without an answer msg is nil.
type answer struct {
	raw []byte
	msg *dns.Msg
}

// says tells whether the answer has this response code.
func (a answer) says(rcode int) bool { return a.msg != nil && a.msg.Rcode == rcode }

// Query answers msg. It fails only for what is not a DNS query (ErrNoQuery): where no resolver answers, the answer is
// SERVFAIL. It takes at most some 4.5 s.
func (r *Resolver) Query(ctx context.Context, msg []byte) ([]byte, error) {
	q, rcode, err := wire.Parse(msg)
	switch {
	case err != nil:
		return nil, err
	case rcode != dns.RcodeSuccess:
		return reply(q, msg, rcode)
	}
	if a, own := r.own(q); own {
		return a.Pack()
	}
	if raw, known := r.unknown.answer(q); known {
		return raw, nil
	}
	final := r.isCluster(q.Question[0].Name)
	fromPod := r.ask(ctx, r.Pod, "pod", q, msg, patience(final))
	if fromPod.says(dns.RcodeSuccess) {
		return r.told(false, fromPod), nil
	}
	if final {
		switch {
		case dns.CountLabel(q.Question[0].Name) == 1 && r.isNobodys(ctx, q, msg, fromPod):
			return reply(q, msg, dns.RcodeNameError)
		case fromPod.msg != nil:
			r.unknown.learn(q, fromPod)
			return fromPod.raw, nil
		default:
			return reply(q, msg, dns.RcodeServerFailure)
		}
	}
	fromLaptop := r.ask(ctx, r.Laptop, "laptop", q, msg, laptopTime)
	switch {
	case fromLaptop.says(dns.RcodeSuccess):
		return r.told(true, fromLaptop), nil
	case fromPod.says(dns.RcodeNameError):
		r.unknown.learn(q, fromPod, fromLaptop)
		return fromPod.raw, nil
	case fromLaptop.says(dns.RcodeNameError):
		return fromLaptop.raw, nil
	default:
		return reply(q, msg, dns.RcodeServerFailure)
	}
}

// isNobodys says whether the name of one label that the pod's resolver could not look up does not exist. The
// laptop's addresses for it would be the laptop's neighbours: they are not taken.
func (r *Resolver) isNobodys(ctx context.Context, q *dns.Msg, msg []byte, fromPod answer) bool {
	return fromPod.says(dns.RcodeRefused) ||
		fromPod.says(dns.RcodeServerFailure) && r.ask(ctx, r.Laptop, "laptop", q, msg, laptopTime).says(dns.RcodeNameError)
}

func patience(final bool) time.Duration {
	if final {
		return finalTime
	}
	return podTime
}

// isCluster says whether only the cluster can know the name.
func (r *Resolver) isCluster(name string) bool {
	name = dns.CanonicalName(name)
	if dns.CountLabel(name) == 1 || dns.IsSubDomain(clusterDomain, name) {
		return true
	}
	for _, domain := range r.Search {
		domain = dns.CanonicalName(domain)
		if domain != "." && dns.IsSubDomain(domain, name) {
			return true
		}
	}
	return false
}

// ask asks one resolver. What it says must be an answer to q, else it counts as no answer.
func (r *Resolver) ask(ctx context.Context, from Exchanger, who string, q *dns.Msg, msg []byte, wait time.Duration) answer {
	if from == nil {
		return answer{}
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	raw, err := from.Exchange(ctx, msg)
	if err == nil {
		var a *dns.Msg
		if a, err = parseAnswer(q, raw); err == nil {
			return answer{raw: raw, msg: a}
		}
	}
	r.logger().Debug("resolver did not answer", "resolver", who, "name", q.Question[0].Name, "err", err)
	return answer{}
}

// parseAnswer parses raw and checks that it answers q.
func parseAnswer(q *dns.Msg, raw []byte) (*dns.Msg, error) {
	a := new(dns.Msg)
	if err := a.Unpack(raw); err != nil {
		return nil, fmt.Errorf("parse the answer: %w", err)
	}
	if !a.Response || a.Id != q.Id {
		return nil, errors.New("the answer is to another query")
	}
	if len(a.Question) == 1 {
		asked, got := q.Question[0], a.Question[0]
		if got.Qtype != asked.Qtype || !strings.EqualFold(got.Name, asked.Name) {
			return nil, errors.New("the answer is to another question")
		}
	}
	return a, nil
}

// told tells Answered the addresses in a, and returns a's bytes.
func (r *Resolver) told(fromLaptop bool, a answer) []byte {
	if r.Answered == nil {
		return a.raw
	}
	if addrs := Addresses(a.msg); len(addrs) > 0 {
		r.Answered(fromLaptop, addrs)
	}
	return a.raw
}

// Addresses returns the addresses (A, AAAA) in an answer, in its order, whatever names they are of; one of IPv4 is never
// mapped into IPv6.
func Addresses(answer *dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range answer.Answer {
		var ip []byte
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

func (r *Resolver) logger() *slog.Logger {
	if r.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Logger
}

// reply makes an answer of our own to q without records.
func reply(q *dns.Msg, msg []byte, rcode int) ([]byte, error) { return wire.Reply(q, msg, rcode, 0) }
