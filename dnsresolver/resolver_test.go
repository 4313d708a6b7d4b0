package dnsresolver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/dnsresolver/stub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a resolver that knows some names' IPv4 addresses, and answers the rest with rcode.
type fake struct {
	knows map[string]string
	rcode int
	err   error
	after time.Duration
	asked int
	alter func(*dns.Msg)
}

func (f *fake) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	f.asked++
	if f.after > 0 {
		select {
		case <-time.After(f.after):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	var q, a dns.Msg
	if err := q.Unpack(msg); err != nil {
		return nil, err
	}
	a.SetReply(&q)
	ip, ok := f.knows[q.Question[0].Name]
	switch {
	case !ok:
		a.Rcode = f.rcode
	case q.Question[0].Qtype == dns.TypeA:
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip)}}
	}
	if f.alter != nil {
		f.alter(&a)
	}
	return a.Pack()
}

func query(t *testing.T, name string, qtype uint16) (*dns.Msg, []byte) {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	raw, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return q, raw
}

func TestWhoAnswers(t *testing.T) {
	known := func(name, ip string) *fake {
		return &fake{knows: map[string]string{name: ip}, rcode: dns.RcodeNameError}
	}
	says := func(rcode int) *fake { return &fake{rcode: rcode} }
	silent := &fake{after: time.Hour}
	broken := &fake{err: errors.New("no tunnel")}
	const a, nx, servfail, refused = dns.TypeA, dns.RcodeNameError, dns.RcodeServerFailure, dns.RcodeRefused
	for _, c := range []struct {
		name        string
		asks        string
		qtype       uint16
		pod, laptop *fake
		rcode       int
		ip          string
		laptopAsked bool
	}{
		{"the cluster's name", "service-b.default.svc.cluster.local", a, known("service-b.default.svc.cluster.local.", "10.96.0.7"), known("service-b.default.svc.cluster.local.", "6.6.6.6"), 0, "10.96.0.7", false},
		{"the cluster's name that does not exist", "nosuch.default.svc.cluster.local", a, says(nx), known("nosuch.default.svc.cluster.local.", "6.6.6.6"), nx, "", false},
		{"a name below a search domain", "db.corp.example", a, says(nx), known("db.corp.example.", "6.6.6.6"), nx, "", false},
		{"the search domain in capitals", "DB.Corp.Example", a, says(nx), known("DB.Corp.Example.", "6.6.6.6"), nx, "", false},
		{"a name that only looks like it", "dbcorp.example", a, says(nx), known("dbcorp.example.", "192.0.2.1"), 0, "192.0.2.1", true},
		{"a single label", "laptop", a, says(nx), known("laptop.", "6.6.6.6"), nx, "", false},
		{"a single label that the pod refuses", "laptop", a, says(refused), known("laptop.", "6.6.6.6"), nx, "", false},
		{"a single label, the pod fails, the laptop knows one", "laptop", a, says(servfail), known("laptop.", "6.6.6.6"), servfail, "", true},
		{"a single label, the pod fails, the laptop knows none", "nosuch", a, says(servfail), says(nx), nx, "", true},
		{"a single label, both fail", "nosuch", a, says(servfail), says(servfail), servfail, "", true},
		{"a single label, no pod", "laptop", a, broken, known("laptop.", "6.6.6.6"), servfail, "", false},
		{"a public name that the pod knows", "example.com", a, known("example.com.", "192.0.2.1"), known("example.com.", "192.0.2.2"), 0, "192.0.2.1", false},
		{"a public name that the pod refuses", "example.com", a, says(refused), known("example.com.", "192.0.2.2"), 0, "192.0.2.2", true},
		{"a public name that the pod cannot get", "example.com", a, says(servfail), known("example.com.", "192.0.2.2"), 0, "192.0.2.2", true},
		{"a public name, the pod is silent", "example.com", a, silent, known("example.com.", "192.0.2.2"), 0, "192.0.2.2", true},
		{"a public name, no tunnel", "example.com", a, broken, known("example.com.", "192.0.2.2"), 0, "192.0.2.2", true},
		{"nobody knows it", "nosuch.example", a, says(nx), says(nx), nx, "", true},
		{"the pod does not know it, the laptop fails", "nosuch.example", a, says(nx), says(servfail), nx, "", true},
		{"the pod fails, the laptop does not know it", "nosuch.example", a, says(servfail), says(nx), nx, "", true},
		{"both fail", "nosuch.example", a, says(servfail), says(refused), servfail, "", true},
		{"both are silent", "nosuch.example", a, silent, silent, servfail, "", true},
		{"the pod knows the name, not the type", "example.com", dns.TypeAAAA, known("example.com.", "192.0.2.1"), known("example.com.", "192.0.2.2"), 0, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod, laptop := *c.pod, *c.laptop
				var told []netip.Addr
				var byLaptop bool
				r := &Resolver{
					Pod: &pod, Laptop: &laptop, Search: []string{"default.svc.cluster.local", "Corp.Example.", "."},
					Answered: func(fromLaptop bool, addrs []netip.Addr) { byLaptop, told = fromLaptop, addrs },
				}
				q, raw := query(t, c.asks, c.qtype)
				began := time.Now()
				got, err := r.Query(t.Context(), raw)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("took %v, the C library has asked again by then", took)
				}
				var answer dns.Msg
				if err := answer.Unpack(got); err != nil {
					t.Fatal(err)
				}
				if answer.Id != q.Id || !answer.Response || answer.Rcode != c.rcode {
					t.Errorf("answered %v", answer.MsgHdr)
				}
				var want []netip.Addr
				if c.ip != "" {
					want = []netip.Addr{netip.MustParseAddr(c.ip)}
				}
				if !slices.Equal(told, want) || len(answer.Answer) != len(want) || byLaptop != (c.laptopAsked && c.ip != "") {
					t.Errorf("told %v (by the laptop: %v), answered %v", told, byLaptop, answer.Answer)
				}
				if (laptop.asked > 0) != c.laptopAsked {
					t.Errorf("the laptop was asked %d times", laptop.asked)
				}
			})
		})
	}
}

func TestAddresses(t *testing.T) {
	answer := new(dns.Msg)
	for _, text := range []string{
		"db.example.com. 30 IN CNAME a.example.com.", "a.example.com. 30 IN A 198.51.100.1",
		"a.example.com. 30 IN AAAA 2001:db8::1", "a.example.com. 30 IN AAAA ::ffff:198.51.100.2",
	} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		answer.Answer = append(answer.Answer, rr)
	}
	want := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("198.51.100.2")}
	if got := Addresses(answer); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Addresses(new(dns.Msg)); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

func TestAnswersToOthersAreNone(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(*dns.Msg)
	}{
		{"another id", func(a *dns.Msg) { a.Id++ }},
		{"no answer", func(a *dns.Msg) { a.Response = false }},
		{"another name", func(a *dns.Msg) { a.Question[0].Name = "other.example." }},
		{"another type", func(a *dns.Msg) { a.Question[0].Qtype = dns.TypeMX }},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &fake{knows: map[string]string{"example.com.": "6.6.6.6"}, alter: c.alter}
			laptop := &fake{knows: map[string]string{"example.com.": "192.0.2.1"}}
			_, raw := query(t, "example.com", dns.TypeA)
			got, err := (&Resolver{Pod: pod, Laptop: laptop}).Query(t.Context(), raw)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(got, []byte{192, 0, 2, 1}) {
				t.Errorf("got %x", got)
			}
		})
	}
}

func TestWhatIsNoPlainQuery(t *testing.T) {
	response := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("example.com.", dns.TypeA))
	update := new(dns.Msg).SetUpdate("example.com.")
	two := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	cut := func(m *dns.Msg, n int) []byte {
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return raw[:len(raw)-n]
	}
	for _, c := range []struct {
		name  string
		msg   []byte
		rcode int // -1: ErrNoQuery
	}{
		{"nothing", nil, -1},
		{"less than a header", make([]byte, 11), -1},
		{"a response", cut(response, 0), -1},
		{"an update", cut(update, 0), dns.RcodeNotImplemented},
		{"two questions", cut(two, 0), dns.RcodeFormatError},
		{"no question", make([]byte, 12), dns.RcodeFormatError},
		{"a question cut short", cut(two, 3), dns.RcodeFormatError},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := (&Resolver{}).Query(t.Context(), c.msg)
			if c.rcode < 0 {
				if !errors.Is(err, ErrNoQuery) {
					t.Errorf("got %x, %v", got, err)
				}
				return
			}
			if err != nil || stub.RCode(got) != c.rcode || !bytes.Equal(got[:2], c.msg[:2]) || got[2]&0x80 == 0 {
				t.Errorf("got %x, %v", got, err)
			}
		})
	}
}

func FuzzQuery(f *testing.F) {
	for _, m := range []*dns.Msg{
		new(dns.Msg).SetQuestion("example.com.", dns.TypeA),
		new(dns.Msg).SetQuestion("a.svc.cluster.local.", dns.TypeSRV).SetEdns0(1232, true),
		new(dns.Msg).SetUpdate("example.com."),
	} {
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(raw[:len(raw)-2])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		pod := &fake{rcode: dns.RcodeNameError}
		laptop := &fake{knows: map[string]string{"example.com.": "192.0.2.1"}, rcode: dns.RcodeServerFailure}
		got, err := (&Resolver{Pod: pod, Laptop: laptop, Search: []string{"cluster.local"}}).Query(t.Context(), msg)
		if err != nil {
			if !errors.Is(err, ErrNoQuery) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if len(got) < stub.HeaderSize || !bytes.Equal(got[:2], msg[:2]) || got[2]&0x80 == 0 {
			t.Fatalf("%x answered with %x", msg, got)
		}
		if err := new(dns.Msg).Unpack(got); err != nil {
			t.Fatalf("%x answered with %x: %v", msg, got, err)
		}
	})
}
