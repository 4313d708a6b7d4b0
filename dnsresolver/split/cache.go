package split

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxKept bounds the answers that are remembered; the oldest go first.
	maxKept = 4096
	// maxTTL is as long as one is remembered at most, whatever its records allow: as CoreDNS in its cache for clusters. What
	// changes in the cluster is known after that time at the latest.
	maxTTL = 30 * time.Second
	// maxStale is how long after that one still serves while the cluster does not answer.
	maxStale = time.Hour
)

// cache remembers what the cluster said: addresses and other records as long as the shortest-lived allows, and that there
// are none as long as the SOA record allows that came with it (RFC 2308). Its zero value is ready.
type cache struct {
	mu    sync.Mutex
	kept  map[cacheKey]*list.Element
	byAge list.List // of *entry, the oldest first
}

// cacheKey is what an answer answers: with DNSSEC it is another one.
type cacheKey struct {
	name          string
	qtype, class  uint16
	edns, do, cut bool
}

type entry struct {
	cacheKey
	msg           *dns.Msg // never changed
	since, expiry time.Time
}

func keyOf(q *dns.Msg) cacheKey {
	opt := q.IsEdns0()
	asked := q.Question[0]
	return cacheKey{
		name: dns.CanonicalName(asked.Name), qtype: asked.Qtype, class: asked.Qclass,
		edns: opt != nil, do: opt != nil && opt.Do(), cut: q.CheckingDisabled,
	}
}

// get is the answer to q, with what is left of its records' time to live; fresh is false where nothing is left, and it may only serve
// while no other answer is to be had (RFC 8767).
func (c *cache) get(q *dns.Msg, now time.Time) (a *dns.Msg, fresh bool) {
	c.mu.Lock()
	e, known := c.kept[keyOf(q)]
	if known && now.Sub(e.Value.(*entry).expiry) >= maxStale {
		c.removeLocked(e)
		known = false
	}
	c.mu.Unlock()
	if !known {
		return nil, false
	}
	was := e.Value.(*entry)
	age := uint32(max(0, now.Sub(was.since)) / time.Second)
	a = was.msg.Copy()
	a.Id, a.Question, a.RecursionDesired = q.Id, q.Question, q.RecursionDesired
	for _, section := range [][]dns.RR{a.Answer, a.Ns, a.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
				if h.Name == was.msg.Question[0].Name {
					h.Name = q.Question[0].Name // as it was written now
				}
			}
		}
	}
	return a, now.Before(was.expiry)
}

// put remembers a, if it may.
func (c *cache) put(q, a *dns.Msg, now time.Time) {
	ttl, ok := timeToLive(a)
	if !ok {
		return
	}
	kept := a.Copy()
	if opt := kept.IsEdns0(); opt != nil {
		opt.Option = nil // they were for who asked then
	}
	key := keyOf(q)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = make(map[cacheKey]*list.Element)
	}
	if old := c.kept[key]; old != nil {
		c.removeLocked(old)
	}
	for len(c.kept) >= maxKept {
		c.removeLocked(c.byAge.Front())
	}
	c.kept[key] = c.byAge.PushBack(&entry{key, kept, now, now.Add(ttl)})
}

func (c *cache) removeLocked(e *list.Element) {
	delete(c.kept, e.Value.(*entry).cacheKey)
	c.byAge.Remove(e)
}

// timeToLive is how long a may be remembered.
func timeToLive(a *dns.Msg) (time.Duration, bool) {
	if a.Truncated || a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return 0, false
	}
	ttl, found := maxTTL, false
	for _, rr := range a.Answer {
		ttl, found = min(ttl, time.Duration(rr.Header().Ttl)*time.Second), true
	}
	if !found || a.Rcode == dns.RcodeNameError {
		found = false
		for _, rr := range a.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				ttl, found = min(ttl, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second), true
			}
		}
	}
	return ttl, found && ttl > 0
}
