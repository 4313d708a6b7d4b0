// Package split answers DNS queries for a whole machine that is connected to a cluster: the cluster's names go to the cluster,
// all others to whom they went before. It knows DNS messages and which names are the cluster's; how a message travels, and how
// the machine came to ask here, is others' business.
package split

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver/wire"
)

const (
	// patience is how long a name may take. The C library waits 5 s, then asks again: an answer before that, if only SERVFAIL, is
	// worth more.
	patience = 4500 * time.Millisecond
	// aliasPatience is what the cluster has for a name that may be somebody else's, too.
	aliasPatience = 2 * time.Second
	// stalePatience is what it has where an older answer would do: less than the C library waits for us (osdns).
	stalePatience = 700 * time.Millisecond
	// maxAsking bounds the questions to the cluster that are under way: fewer than a socket's (serve), so that names outside are answered
	// while all of these wait.
	maxAsking  = 192
	headerSize = 12
)

// ErrNoQuery is returned for bytes that are not a DNS query.
var ErrNoQuery = wire.ErrNone

// Exchanger carries one DNS message to a resolver and returns its answer.
type Exchanger interface {
	Exchange(ctx context.Context, msg []byte) ([]byte, error)
}

// Config says whose names are whose. Names are with or without a final dot.
type Config struct {
	// Cluster and Former answer. Nil: nobody does.
	Cluster, Former Exchanger
	// Namespace is the one in which a name of one label is a Service; ClusterDomain is the cluster's, mostly cluster.local.
	Namespace, ClusterDomain string
	// Namespaces are those of which a Service may be called SERVICE.NAMESPACE, whatever the machine's search domains are.
	Namespaces []string
	// Domains are further domains of the cluster's, for instance its search domains; Never are domains, or names, that are not.
	Domains, Never []string
	// Reverse are the addresses whose names the cluster knows.
	Reverse []netip.Prefix
	// Rewrite takes the place of addresses in the cluster's answers, and back in questions for an address's name. Nil: as they are.
	Rewrite, Real func(netip.Addr) netip.Addr
}

// Resolver answers. It is safe for concurrent use.
type Resolver struct {
	cfg     Config
	domains []string
	cache   cache
	asking  chan struct{} // one for each question to the cluster that is under way
	// Asked and Cached count the queries, and those that were answered from the cache.
	Asked, Cached atomic.Int64
}

// New makes a resolver.
func New(cfg Config) *Resolver {
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	r := &Resolver{cfg: cfg, asking: make(chan struct{}, maxAsking)}
	for _, d := range append([]string{cfg.ClusterDomain}, cfg.Domains...) {
		if d = dns.CanonicalName(d); d != "." {
			r.domains = append(r.domains, d)
		}
	}
	return r
}

// route is where a name goes.
type route int

const (
	toFormer  route = iota
	toCluster       // and nowhere else
	asAlias         // to the cluster by its full name; if it is not there, to the former
)

// choose says where a canonical name goes, and its full name where that is another one.
func (r *Resolver) choose(name string) (route, string) {
	under := func(domain string) bool { return dns.IsSubDomain(dns.CanonicalName(domain), name) }
	if name == "." || slices.ContainsFunc(r.cfg.Never, under) {
		return toFormer, name
	}
	if slices.ContainsFunc(r.domains, under) {
		return toCluster, name
	}
	if addr, ok := reversed(name); ok {
		if r.cfg.Real != nil {
			if real := r.cfg.Real(addr); real != addr {
				full, err := dns.ReverseAddr(real.String())
				if err == nil {
					return toCluster, full
				}
			}
		}
		if slices.ContainsFunc(r.cfg.Reverse, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return toCluster, name
		}
		return toFormer, name
	}
	labels := dns.SplitDomainName(name)
	domain := dns.CanonicalName(r.cfg.ClusterDomain)
	switch {
	case len(labels) == 1 && r.cfg.Namespace != "":
		return asAlias, name + r.cfg.Namespace + ".svc." + domain
	case len(labels) >= 2 && slices.Contains(r.cfg.Namespaces, labels[len(labels)-1]):
		return asAlias, name + "svc." + domain
	case len(labels) >= 3 && labels[len(labels)-1] == "svc":
		return asAlias, name + domain
	}
	return toFormer, name
}

// Query answers msg. It fails only for what is not a DNS query (ErrNoQuery): where nobody answers, the answer is SERVFAIL.
func (r *Resolver) Query(ctx context.Context, msg []byte) ([]byte, error) {
	q, rcode, err := wire.Parse(msg)
	switch {
	case err != nil:
		return nil, err
	case rcode != dns.RcodeSuccess:
		return reply(q, msg, rcode)
	}
	r.Asked.Add(1)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	where, full := r.choose(dns.CanonicalName(q.Question[0].Name))
	if where != toFormer {
		if raw := r.fromCluster(ctx, q, where, full); raw != nil {
			return raw, nil
		}
		if where == toCluster {
			return reply(q, msg, dns.RcodeServerFailure)
		}
	}
	if r.cfg.Former == nil {
		rcode := dns.RcodeNameError
		if where == toFormer {
			rcode = dns.RcodeRefused
		}
		return reply(q, msg, rcode)
	}
	raw, err := r.cfg.Former.Exchange(ctx, msg)
	if err != nil || !answersTo(raw, q) {
		return reply(q, msg, dns.RcodeServerFailure)
	}
	return raw, nil
}

// fromCluster is the cluster's answer, packed; nil: it has none, or does not know a name that somebody else may know.
func (r *Resolver) fromCluster(ctx context.Context, q *dns.Msg, where route, full string) []byte {
	a, fresh := r.cache.get(q, time.Now())
	if fresh {
		r.Cached.Add(1)
	} else if now := r.askFor(ctx, q, full, where, a != nil && a.Rcode == dns.RcodeSuccess); now != nil {
		a = now
	}
	if a == nil || where == asAlias && a.Rcode != dns.RcodeSuccess {
		return nil
	}
	return pack(a)
}

// askFor asks the cluster, and remembers what it says; not for long where another answer is at hand, or may be. Nil: it says nothing.
func (r *Resolver) askFor(ctx context.Context, q *dns.Msg, full string, where route, stale bool) *dns.Msg {
	if r.cfg.Cluster == nil {
		return nil
	}
	wait := patience
	switch {
	case stale:
		wait = stalePatience
	case where == asAlias:
		wait = aliasPatience
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	default:
		return nil
	}
	a := r.ask(ctx, q, full)
	if a != nil && a.Rcode != dns.RcodeServerFailure {
		r.cache.put(q, a, time.Now())
		return a
	}
	if stale {
		return nil
	}
	return a
}

// ask asks the cluster for q by a full name, and makes what it says an answer to q.
func (r *Resolver) ask(ctx context.Context, q *dns.Msg, full string) *dns.Msg {
	out := *q
	asked := q.Question[0]
	out.Question = []dns.Question{asked}
	if dns.CanonicalName(asked.Name) != full {
		out.Question[0].Name = full
	}
	msg, err := out.Pack()
	if err != nil {
		return nil
	}
	raw, err := r.cfg.Cluster.Exchange(ctx, msg)
	if err != nil {
		return nil
	}
	a := new(dns.Msg)
	if a.Unpack(raw) != nil || !a.Response || a.Id != q.Id {
		return nil
	}
	if len(a.Question) == 1 {
		got := a.Question[0]
		if got.Qtype != asked.Qtype || got.Qclass != asked.Qclass || !strings.EqualFold(got.Name, out.Question[0].Name) {
			return nil
		}
	}
	a.Question = q.Question
	for _, rr := range slices.Concat(a.Answer, a.Extra) {
		r.translate(rr, full, asked.Name)
	}
	return a
}

// translate gives a record the name that was asked for, and addresses their place.
func (r *Resolver) translate(rr dns.RR, full, asked string) {
	if strings.EqualFold(rr.Header().Name, full) {
		rr.Header().Name = asked
	}
	if r.cfg.Rewrite == nil {
		return
	}
	switch rr := rr.(type) {
	case *dns.A:
		rr.A = rewritten(r.cfg.Rewrite, rr.A)
	case *dns.AAAA:
		rr.AAAA = rewritten(r.cfg.Rewrite, rr.AAAA)
	}
}

func rewritten(rewrite func(netip.Addr) netip.Addr, ip []byte) []byte {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return ip
	}
	to := rewrite(addr.Unmap())
	if to.Is4() == (len(ip) == 4 || addr.Is4In6()) {
		return to.AsSlice()
	}
	return ip
}

// answersTo says whether raw is a response to q, by its header.
func answersTo(raw []byte, q *dns.Msg) bool {
	return len(raw) >= headerSize && binary.BigEndian.Uint16(raw) == q.Id && raw[2]&0x80 != 0
}

// reversed is the address whose name is asked for.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		addr, err := netip.ParseAddr(strings.Join(parts, "."))
		return addr, err == nil && addr.Is4()
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		digits := strings.Split(rest, ".")
		if len(digits) != 32 {
			return netip.Addr{}, false
		}
		slices.Reverse(digits)
		var b strings.Builder
		for i, d := range digits {
			if i > 0 && i%4 == 0 {
				b.WriteByte(':')
			}
			b.WriteString(d)
		}
		addr, err := netip.ParseAddr(b.String())
		return addr, err == nil
	}
	return netip.Addr{}, false
}

func pack(a *dns.Msg) []byte {
	raw, err := a.Pack()
	if err != nil {
		return nil
	}
	return raw
}

// reply makes an answer of our own to q without records.
func reply(q *dns.Msg, msg []byte, rcode int) ([]byte, error) {
	return wire.Reply(q, msg, rcode, wire.OwnSize)
}
