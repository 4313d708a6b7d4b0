package split

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// zone is a resolver in memory. It counts what it is asked.
type zone struct {
	records map[string]string // name → address
	asked   atomic.Int64
	down    bool
	soa     bool
}

func (z *zone) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	z.asked.Add(1)
	if z.down {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	q := new(dns.Msg)
	if err := q.Unpack(msg); err != nil {
		return nil, err
	}
	a := new(dns.Msg)
	a.SetReply(q)
	if opt := q.IsEdns0(); opt != nil {
		a.SetEdns0(1232, opt.Do())
	}
	asked := q.Question[0]
	head := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: 10}
	value, known := z.records[dns.CanonicalName(asked.Name)]
	switch {
	case !known:
		a.Rcode = dns.RcodeNameError
	case asked.Qtype == dns.TypeA:
		a.Answer = []dns.RR{&dns.A{Hdr: head, A: net.ParseIP(value)}}
	case asked.Qtype == dns.TypePTR:
		a.Answer = []dns.RR{&dns.PTR{Hdr: head, Ptr: value}}
	}
	if len(a.Answer) == 0 && z.soa {
		a.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "cluster.local.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 5}, Ns: "a.", Mbox: "b.", Minttl: 5}}
	}
	return a.Pack()
}

func world() (cluster, former *zone, cfg Config) {
	cluster = &zone{records: map[string]string{
		"service-b.shop.svc.cluster.local.":  "10.96.0.7",
		"db.data.svc.cluster.local.":         "10.96.0.8",
		"0.db.data.svc.cluster.local.":       "10.244.0.9",
		"7.0.96.10.in-addr.arpa.":            "service-b.shop.svc.cluster.local.",
		"internal.corp.example.":             "10.1.1.1",
		"printer.shop.svc.cluster.local.bad": "10.96.0.66",
	}, soa: true}
	former = &zone{records: map[string]string{
		"public.example.com.": "192.0.2.10", "printer.": "192.168.1.9", "9.1.168.192.in-addr.arpa.": "printer.",
		"service-b.shop.svc.cluster.local.": "203.0.113.1", "db.data.": "203.0.113.2", "intern.never.example.": "203.0.113.3",
	}}
	return cluster, former, Config{
		Cluster: cluster, Former: former, Namespace: "shop", Namespaces: []string{"shop", "data"},
		Domains: []string{"shop.svc.cluster.local", "corp.example"}, Never: []string{"never.example"},
		Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
	}
}

func question(name string, qtype uint16) []byte {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.Id = 77
	raw, err := q.Pack()
	if err != nil {
		panic(err)
	}
	return raw
}

func ask(t *testing.T, r *Resolver, name string, qtype uint16) *dns.Msg {
	t.Helper()
	raw, err := r.Query(t.Context(), question(name, qtype))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	a := new(dns.Msg)
	if err := a.Unpack(raw); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if a.Id != 77 || !a.Response || len(a.Question) != 1 || a.Question[0].Name != name {
		t.Fatalf("%s: no answer to the question:\n%v", name, a)
	}
	return a
}

func TestWhoseNames(t *testing.T) {
	for _, tc := range []struct {
		name    string
		qtype   uint16
		want    string // "" is NXDOMAIN
		cluster bool   // that the cluster was asked
		former  bool
	}{
		{"service-b.", dns.TypeA, "10.96.0.7", true, false},
		{"SERVICE-b.", dns.TypeA, "10.96.0.7", true, false},
		{"service-b.shop.", dns.TypeA, "10.96.0.7", true, false},
		{"service-b.shop.svc.", dns.TypeA, "10.96.0.7", true, false},
		{"service-b.shop.svc.cluster.local.", dns.TypeA, "10.96.0.7", true, false},
		{"db.data.", dns.TypeA, "10.96.0.8", true, false},
		{"0.db.data.", dns.TypeA, "10.244.0.9", true, false},
		{"nothing.shop.svc.cluster.local.", dns.TypeA, "", true, false},
		{"nothing.", dns.TypeA, "", true, true},
		{"printer.", dns.TypeA, "192.168.1.9", true, true},
		{"public.example.com.", dns.TypeA, "192.0.2.10", false, true},
		{"internal.corp.example.", dns.TypeA, "10.1.1.1", true, false},
		{"intern.never.example.", dns.TypeA, "203.0.113.3", false, true},
		{"7.0.96.10.in-addr.arpa.", dns.TypePTR, "service-b.shop.svc.cluster.local.", true, false},
		{"9.1.168.192.in-addr.arpa.", dns.TypePTR, "printer.", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cluster, former, cfg := world()
			a := ask(t, New(cfg), tc.name, tc.qtype)
			got := ""
			for _, rr := range a.Answer {
				if rr.Header().Name != tc.name {
					t.Errorf("the record is of %s", rr.Header().Name)
				}
				switch rr := rr.(type) {
				case *dns.A:
					got = rr.A.String()
				case *dns.PTR:
					got = rr.Ptr
				}
			}
			if got != tc.want || got == "" && a.Rcode != dns.RcodeNameError {
				t.Errorf("got %q (%s), want %q", got, dns.RcodeToString[a.Rcode], tc.want)
			}
			if (cluster.asked.Load() > 0) != tc.cluster || (former.asked.Load() > 0) != tc.former {
				t.Errorf("asked cluster %d, former %d times", cluster.asked.Load(), former.asked.Load())
			}
		})
	}
}

// TestTheClusterIsAway: its names fail within bounds, the others do not notice.
func TestTheClusterIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster, _, cfg := world()
		cluster.down = true
		r := New(cfg)
		for name, want := range map[string]int{
			"service-b.shop.svc.cluster.local.": dns.RcodeServerFailure, "public.example.com.": dns.RcodeSuccess, "printer.": dns.RcodeSuccess,
		} {
			began := time.Now()
			if a := ask(t, r, name, dns.TypeA); a.Rcode != want || time.Since(began) > 5*time.Second {
				t.Errorf("%s: %s after %v", name, dns.RcodeToString[a.Rcode], time.Since(began))
			}
		}
	})
}

// TestStale: while the cluster is away, what it said last still serves, and in time.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster, _, cfg := world()
		r := New(cfg)
		for _, name := range []string{"service-b.", "service-b.shop.svc.cluster.local.", "gone.shop.svc.cluster.local."} {
			ask(t, r, name, dns.TypeA)
		}
		time.Sleep(maxTTL + time.Minute)
		cluster.down = true
		for _, name := range []string{"service-b.", "service-b.shop.svc.cluster.local."} {
			began := time.Now()
			if a := ask(t, r, name, dns.TypeA); len(a.Answer) != 1 || time.Since(began) >= time.Second {
				t.Errorf("%s after %v: %v", name, time.Since(began), a)
			}
		}
		if a := ask(t, r, "gone.shop.svc.cluster.local.", dns.TypeA); a.Rcode == dns.RcodeSuccess {
			t.Errorf("one that was not there: %v", a)
		}
		cluster.down, cluster.records["service-b.shop.svc.cluster.local."] = false, "10.96.0.77"
		if got := ask(t, r, "service-b.", dns.TypeA).Answer[0].(*dns.A).A.String(); got != "10.96.0.77" {
			t.Errorf("when it is back: %s", got)
		}
		time.Sleep(maxTTL + maxStale)
		cluster.down = true
		if a := ask(t, r, "service-b.shop.svc.cluster.local.", dns.TypeA); a.Rcode != dns.RcodeServerFailure {
			t.Errorf("after all that time: %v", a)
		}
	})
}

// TestManyWaitForTheCluster: names outside do not wait behind them.
func TestManyWaitForTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster, _, cfg := world()
		cluster.down = true
		r := New(cfg)
		var waiting sync.WaitGroup
		for i := range maxAsking {
			waiting.Go(func() {
				if _, err := r.Query(t.Context(), question(strconv.Itoa(i)+".shop.svc.cluster.local.", dns.TypeA)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if a := ask(t, r, "one-more.shop.svc.cluster.local.", dns.TypeA); a.Rcode != dns.RcodeServerFailure {
			t.Errorf("one more: %v", a)
		}
		if a := ask(t, r, "public.example.com.", dns.TypeA); a.Rcode != dns.RcodeSuccess {
			t.Errorf("outside: %v", a)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("they waited %v", took)
		}
		waiting.Wait()
	})
}

func TestNobodyWasAskedBefore(t *testing.T) {
	_, _, cfg := world()
	cfg.Former = nil
	r := New(cfg)
	if a := ask(t, r, "nothing.", dns.TypeA); a.Rcode != dns.RcodeNameError {
		t.Errorf("a name that is nowhere: %s", dns.RcodeToString[a.Rcode])
	}
	if a := ask(t, r, "public.example.com.", dns.TypeA); a.Rcode != dns.RcodeRefused {
		t.Errorf("a name that should not have come here: %s", dns.RcodeToString[a.Rcode])
	}
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster, _, cfg := world()
		r := New(cfg)
		ask(t, r, "service-b.", dns.TypeA)
		time.Sleep(4 * time.Second)
		a := ask(t, r, "Service-B.", dns.TypeA)
		if n := cluster.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if ttl := a.Answer[0].Header().Ttl; ttl != 6 {
			t.Errorf("TTL %d after 4 of 10 s", ttl)
		}
		if name := a.Answer[0].Header().Name; name != "Service-B." {
			t.Errorf("the record is of %s", name)
		}
		time.Sleep(7 * time.Second)
		ask(t, r, "service-b.", dns.TypeA)
		if n := cluster.asked.Load(); n != 2 {
			t.Errorf("asked %d times after the end of its time", n)
		}
		for range 2 {
			ask(t, r, "gone.shop.svc.cluster.local.", dns.TypeA)
		}
		if n := cluster.asked.Load(); n != 3 {
			t.Errorf("asked %d times; want that there is no such name be remembered", n)
		}
		time.Sleep(6 * time.Second)
		cluster.records["gone.shop.svc.cluster.local."] = "10.96.0.99"
		if a := ask(t, r, "gone.shop.svc.cluster.local.", dns.TypeA); len(a.Answer) != 1 {
			t.Errorf("a Service that was made since: %v", a)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	now := time.Now()
	for i := range maxKept + 100 {
		q := new(dns.Msg)
		q.SetQuestion("n"+strconv.Itoa(i)+".", dns.TypeA)
		a := new(dns.Msg)
		a.SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 10}, A: net.IPv4(1, 2, 3, 4)}}
		c.put(q, a, now)
	}
	if len(c.kept) != maxKept || c.byAge.Len() != maxKept {
		t.Errorf("%d, %d kept; want %d", len(c.kept), c.byAge.Len(), maxKept)
	}
}

func TestRewrite(t *testing.T) {
	_, _, cfg := world()
	real, virtual := netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("198.18.5.1")
	swap := func(from, to netip.Addr) func(netip.Addr) netip.Addr {
		return func(a netip.Addr) netip.Addr {
			if a == from {
				return to
			}
			return a
		}
	}
	cfg.Rewrite, cfg.Real = swap(real, virtual), swap(virtual, real)
	r := New(cfg)
	for range 2 { // also from the cache
		if got := ask(t, r, "service-b.", dns.TypeA).Answer[0].(*dns.A).A.String(); got != "198.18.5.1" {
			t.Errorf("got %s", got)
		}
	}
	a := ask(t, r, "1.5.18.198.in-addr.arpa.", dns.TypePTR)
	if len(a.Answer) != 1 || a.Answer[0].Header().Name != "1.5.18.198.in-addr.arpa." {
		t.Errorf("the other way: %v", a)
	}
}

// lying answers with bytes that were given to it.
type lying []byte

func (l lying) Exchange(context.Context, []byte) ([]byte, error) {
	if len(l) == 0 {
		return nil, errors.New("no answer")
	}
	return slices.Clone(l), nil
}

// FuzzQuery: whatever arrives, and whatever the resolvers say, who asks a question gets an answer to it or none, and nobody panics.
func FuzzQuery(f *testing.F) {
	_, _, cfg := world()
	for _, name := range []string{"service-b.", "db.data.", "7.0.96.10.in-addr.arpa.", "public.example.com.", "."} {
		raw := question(name, dns.TypeA)
		answer, err := New(cfg).Query(f.Context(), raw)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, answer)
		f.Add(raw[:len(raw)-1], answer[:len(answer)/2])
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1}, []byte(nil)) // a name that points at itself
	f.Fuzz(func(t *testing.T, msg, answer []byte) {
		_, _, cfg := world()
		cfg.Cluster, cfg.Former = lying(answer), lying(answer)
		r := New(cfg)
		for range 2 { // the second may come from the cache
			got, err := r.Query(t.Context(), msg)
			if err != nil {
				if !errors.Is(err, ErrNoQuery) {
					t.Fatalf("%v", err)
				}
				return
			}
			if len(got) < headerSize || got[0] != msg[0] || got[1] != msg[1] || got[2]&0x80 == 0 {
				t.Fatalf("no response to %x: %x", msg, got)
			}
		}
	})
}
