package dnsresolver

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxNegative bounds the names that are remembered as unknown; the oldest go first.
	maxNegative = 4096
	// maxNegativeTTL is as long as one is remembered at most, whatever its zone allows: as CoreDNS in its cache for
	// clusters. A Service that is made is known after that time at the latest.
	maxNegativeTTL = 30 * time.Second
)

// negatives remembers names that do not exist, as RFC 2308 has it: as long as the SOA record that came with the
// NXDOMAIN allows, and not at all without one. Its zero value is ready.
type negatives struct {
	mu      sync.Mutex
	names   map[negativeKey]*list.Element
	byAge   list.List // of *negative, the oldest first
	maximum int       // 0: maxNegative
}

// negativeKey is what does not exist: the name, with records of any type (RFC 2308 section 5).
type negativeKey struct {
	name  string
	class uint16
}

type negative struct {
	negativeKey
	msg           *dns.Msg
	since, expiry time.Time
}

// plain says whether an answer to one query is an answer to another of the same name: with DNSSEC, or options
// such as cookies, it is not.
func plain(q *dns.Msg) bool {
	opt := q.IsEdns0()
	return !q.CheckingDisabled && (opt == nil || !opt.Do() && len(opt.Option) == 0)
}

func keyOf(q *dns.Msg) negativeKey {
	return negativeKey{dns.CanonicalName(q.Question[0].Name), q.Question[0].Qclass}
}

// answer is the answer to q, if q's name is known not to exist.
func (n *negatives) answer(q *dns.Msg) ([]byte, bool) {
	if !plain(q) {
		return nil, false
	}
	now := time.Now()
	n.mu.Lock()
	e, known := n.names[keyOf(q)]
	if known && !now.Before(e.Value.(*negative).expiry) {
		n.removeLocked(e)
		known = false
	}
	n.mu.Unlock()
	if !known {
		return nil, false
	}
	raw, err := e.Value.(*negative).answerTo(q, now)
	return raw, err == nil
}

// answerTo makes an answer to q of what was answered then, with what is left of its records' time to live. Its header and
// its EDNS record are as CoreDNS's, whose own cache passes for the authority, too, and which tells the asker's size.
func (n *negative) answerTo(q *dns.Msg, now time.Time) ([]byte, error) {
	a := new(dns.Msg)
	a.SetRcode(q, dns.RcodeNameError)
	a.Authoritative, a.RecursionAvailable = n.msg.Authoritative, n.msg.RecursionAvailable
	a.AuthenticatedData = n.msg.AuthenticatedData
	age := uint32(now.Sub(n.since) / time.Second)
	for _, rr := range n.msg.Ns {
		rr = dns.Copy(rr)
		rr.Header().Ttl -= min(age, rr.Header().Ttl)
		a.Ns = append(a.Ns, rr)
	}
	if opt := q.IsEdns0(); opt != nil {
		a.SetEdns0(opt.UDPSize(), false)
	}
	return a.Pack()
}

// learn remembers that q's name does not exist, if all answers say so and how long that holds.
func (n *negatives) learn(q *dns.Msg, answers ...answer) {
	ttl := maxNegativeTTL
	for _, a := range answers {
		ttl = min(ttl, negativeTTL(q, a))
	}
	if ttl <= 0 || !plain(q) {
		return
	}
	now := time.Now()
	e := &negative{negativeKey: keyOf(q), msg: answers[0].msg, since: now, expiry: now.Add(ttl)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil {
		n.names = make(map[negativeKey]*list.Element)
	}
	if old, known := n.names[e.negativeKey]; known {
		n.removeLocked(old)
	}
	maximum := n.maximum
	if maximum == 0 {
		maximum = maxNegative
	}
	for n.byAge.Len() >= maximum {
		n.removeLocked(n.byAge.Front())
	}
	n.names[e.negativeKey] = n.byAge.PushBack(e)
}

func (n *negatives) removeLocked(e *list.Element) {
	delete(n.names, e.Value.(*negative).negativeKey)
	n.byAge.Remove(e)
}

// negativeTTL is how long an answer's NXDOMAIN holds: as the zone's SOA record says (RFC 2308 section 5). It is 0 for
// answers that say something else, or that are about an alias's target.
func negativeTTL(q *dns.Msg, a answer) time.Duration {
	if !a.says(dns.RcodeNameError) || a.msg.Truncated || len(a.msg.Answer) > 0 {
		return 0
	}
	for _, rr := range a.msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, q.Question[0].Name) {
			return time.Duration(min(soa.Minttl, soa.Hdr.Ttl)) * time.Second
		}
	}
	return 0
}
