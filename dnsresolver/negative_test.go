package dnsresolver

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// withSOA lets a fake's NXDOMAIN bear a zone's SOA record.
func withSOA(zone string, ttl, minimum uint32) func(*dns.Msg) {
	return func(a *dns.Msg) {
		if a.Rcode == dns.RcodeNameError {
			a.Authoritative = true
			a.Ns = append(a.Ns, &dns.SOA{
				Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
				Ns:  "ns." + zone, Mbox: "admin." + zone, Minttl: minimum,
			})
		}
	}
}

func ask(t testing.TB, r *Resolver, q *dns.Msg) *dns.Msg {
	t.Helper()
	raw, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Query(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	a := new(dns.Msg)
	if err := a.Unpack(got); err != nil {
		t.Fatal(err)
	}
	if a.Id != q.Id || len(a.Question) != 1 || a.Question[0] != q.Question[0] || a.RecursionDesired != q.RecursionDesired {
		t.Fatalf("%v answered with %v", q, a)
	}
	return a
}

func TestUnknownNamesAreRemembered(t *testing.T) {
	const name = "nosuch.default.svc.cluster.local."
	question := func(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }
	for _, c := range []struct {
		name   string
		alter  func(*dns.Msg)
		rcode  int
		first  *dns.Msg
		second *dns.Msg
		after  time.Duration
		asked  int
	}{
		{"at once", withSOA("cluster.local.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 0, 1},
		{"another type", withSOA("cluster.local.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeAAAA), time.Second, 1},
		{"other capitals", withSOA("cluster.local.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question("NoSuch.default.svc.cluster.local.", dns.TypeA), time.Second, 1},
		{"with EDNS", withSOA("cluster.local.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA).SetEdns0(1232, false), time.Second, 1},
		{"with DNSSEC", withSOA("cluster.local.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA).SetEdns0(1232, true), time.Second, 2},
		{"another name", withSOA("cluster.local.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question("a."+name, dns.TypeA), time.Second, 2},
		{"just before its end", withSOA("cluster.local.", 60, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 5*time.Second - 1, 1},
		{"the SOA's minimum is over", withSOA("cluster.local.", 60, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 5 * time.Second, 2},
		{"the SOA's time is over", withSOA("cluster.local.", 5, 60), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 5 * time.Second, 2},
		{"never longer than 30 s", withSOA("cluster.local.", 3600, 3600), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 30 * time.Second, 2},
		{"not at all", withSOA("cluster.local.", 0, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 0, 2},
		{"no SOA", nil, dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 0, 2},
		{"another zone's SOA", withSOA("example.com.", 5, 5), dns.RcodeNameError, question(name, dns.TypeA), question(name, dns.TypeA), 0, 2},
		{"a failure", nil, dns.RcodeServerFailure, question(name, dns.TypeA), question(name, dns.TypeA), 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := &fake{rcode: c.rcode, alter: c.alter}
				r := &Resolver{Pod: pod}
				first := ask(t, r, c.first)
				time.Sleep(c.after)
				second := ask(t, r, c.second)
				if second.Rcode != c.rcode || first.Rcode != c.rcode {
					t.Errorf("answered %s, then %s", dns.RcodeToString[first.Rcode], dns.RcodeToString[second.Rcode])
				}
				if pod.asked != c.asked {
					t.Errorf("the pod was asked %d times, want %d", pod.asked, c.asked)
				}
				if c.asked > 1 {
					return
				}
				if len(second.Ns) != 1 || second.Ns[0].Header().Ttl != first.Ns[0].Header().Ttl-uint32(c.after/time.Second) {
					t.Errorf("after %v: %v, was %v", c.after, second.Ns, first.Ns)
				}
				if got, want := second.IsEdns0(), c.second.IsEdns0(); (got != nil) != (want != nil) || got != nil && got.UDPSize() != want.UDPSize() {
					t.Errorf("EDNS: %v", got)
				}
				if first.Authoritative != second.Authoritative || first.RecursionAvailable != second.RecursionAvailable {
					t.Errorf("answered %v, then %v", first.MsgHdr, second.MsgHdr)
				}
			})
		})
	}
}

// TestTwoMustNotKnow: a name that may be the laptop's is unknown only if both say so.
func TestTwoMustNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := &fake{rcode: dns.RcodeNameError, alter: withSOA("example.", 30, 30)}
		laptop := &fake{rcode: dns.RcodeServerFailure}
		r := &Resolver{Pod: pod, Laptop: laptop}
		q := func() *dns.Msg { return new(dns.Msg).SetQuestion("nosuch.example.", dns.TypeA) }
		for want := 1; want <= 2; want++ {
			if a := ask(t, r, q()); a.Rcode != dns.RcodeNameError || laptop.asked != want {
				t.Errorf("%v; the laptop, which fails, was asked %d times", a.MsgHdr, laptop.asked)
			}
		}
		laptop.rcode, laptop.alter = dns.RcodeNameError, withSOA("example.", 3, 3)
		ask(t, r, q())
		ask(t, r, q())
		if laptop.asked != 3 || pod.asked != 3 {
			t.Errorf("asked %d and %d times, want 3", pod.asked, laptop.asked)
		}
		time.Sleep(3 * time.Second) // the shorter one of both
		laptop.knows = map[string]string{"nosuch.example.": "192.0.2.1"}
		if a := ask(t, r, q()); a.Rcode != dns.RcodeSuccess || len(a.Answer) != 1 {
			t.Errorf("the name that was made: %v", a)
		}
	})
}

func TestUnknownNamesAreBounded(t *testing.T) {
	pod := &fake{rcode: dns.RcodeNameError, alter: withSOA("cluster.local.", 30, 30)}
	r := &Resolver{Pod: pod}
	r.unknown.maximum = 3
	for i := range 5 {
		ask(t, r, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.cluster.local.", i), dns.TypeA))
	}
	if n := len(r.unknown.names); n != 3 || r.unknown.byAge.Len() != 3 {
		t.Errorf("%d names", n)
	}
	ask(t, r, new(dns.Msg).SetQuestion("n4.cluster.local.", dns.TypeA))
	ask(t, r, new(dns.Msg).SetQuestion("n0.cluster.local.", dns.TypeA))
	if pod.asked != 6 {
		t.Errorf("asked %d times, want 6: the oldest go first", pod.asked)
	}
}

// TestAnswersPassWhole: whatever a resolver answers is given on byte for byte.
func TestAnswersPassWhole(t *testing.T) {
	for _, c := range []struct {
		name    string
		qtype   uint16
		records []string
	}{
		{"headless.default.svc.cluster.local.", dns.TypeA, []string{"@ 5 IN A 10.244.0.7", "@ 5 IN A 10.244.0.8"}},
		{"six.default.svc.cluster.local.", dns.TypeAAAA, []string{"@ 5 IN AAAA fd00::7"}},
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV, []string{"@ 5 IN SRV 0 50 80 web-0.web.default.svc.cluster.local."}},
		{"7.0.244.10.in-addr.arpa.", dns.TypePTR, []string{"@ 5 IN PTR web-0.web.default.svc.cluster.local."}},
		{"text.example.", dns.TypeTXT, []string{`@ 5 IN TXT "one" "two \" \\ three"`}},
		{"external.default.svc.cluster.local.", dns.TypeA, []string{"@ 5 IN CNAME db.example.", "db.example. 5 IN A 192.0.2.1"}},
		{"odd.example.", 65280, []string{`@ 5 IN TYPE65280 \# 3 010203`}},
	} {
		t.Run(dns.Type(c.qtype).String()+" "+c.name, func(t *testing.T) {
			var sent []byte
			pod := exchangeFunc(func(msg []byte) ([]byte, error) {
				var q dns.Msg
				if err := q.Unpack(msg); err != nil {
					return nil, err
				}
				a := new(dns.Msg).SetReply(&q)
				a.Compress = true
				for _, text := range c.records {
					rr, err := dns.NewRR(string(bytes.Replace([]byte(text), []byte("@"), []byte(c.name), 1)))
					if err != nil {
						return nil, err
					}
					a.Answer = append(a.Answer, rr)
				}
				a.SetEdns0(4096, false)
				var err error
				sent, err = a.Pack()
				return sent, err
			})
			q, err := new(dns.Msg).SetQuestion(c.name, c.qtype).SetEdns0(4096, false).Pack()
			if err != nil {
				t.Fatal(err)
			}
			got, err := (&Resolver{Pod: pod}).Query(t.Context(), q)
			if err != nil || sent == nil || !bytes.Equal(got, sent) {
				t.Errorf("got %x, %v; want %x", got, err, sent)
			}
		})
	}
}

// exchangeFunc is a resolver.
type exchangeFunc func(msg []byte) ([]byte, error)

func (f exchangeFunc) Exchange(_ context.Context, msg []byte) ([]byte, error) { return f(msg) }

// BenchmarkUnknownName is what a name that is known not to exist costs: no round trip to the pod.
func BenchmarkUnknownName(b *testing.B) {
	pod := &fake{rcode: dns.RcodeNameError, alter: withSOA("cluster.local.", 30, 30)}
	r := &Resolver{Pod: pod, Search: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}}
	q, err := new(dns.Msg).SetQuestion("nosuch.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Query(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
}
