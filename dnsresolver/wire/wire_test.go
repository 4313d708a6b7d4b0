package wire

import (
	"errors"
	"testing"

	"github.com/miekg/dns"
)

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseAndReply(t *testing.T) {
	plain := packed(t, new(dns.Msg).SetQuestion("example.com.", dns.TypeA))
	edns := packed(t, new(dns.Msg).SetQuestion("example.com.", dns.TypeA).SetEdns0(4096, false))
	update := packed(t, new(dns.Msg).SetUpdate("example.com."))
	for _, tt := range []struct {
		name  string
		msg   []byte
		rcode int // -1: ErrNone
		size  uint16
		edns  bool
	}{
		{"nothing", nil, -1, 0, false},
		{"less than a header", make([]byte, 11), -1, 0, false},
		{"a response", packed(t, new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("example.com.", dns.TypeA))), -1, 0, false},
		{"an update", update, dns.RcodeNotImplemented, 0, false},
		{"no question", make([]byte, 12), dns.RcodeFormatError, 0, false},
		{"a question cut short", plain[:len(plain)-3], dns.RcodeFormatError, 0, false},
		{"a query", plain, dns.RcodeSuccess, 1232, false},
		{"a query with EDNS", edns, dns.RcodeSuccess, 1232, true},
		{"a query with EDNS, answered without", edns, dns.RcodeSuccess, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, rcode, err := Parse(tt.msg)
			if tt.rcode < 0 {
				if !errors.Is(err, ErrNone) {
					t.Errorf("got %d, %v, want %v", rcode, err, ErrNone)
				}
				return
			}
			if err != nil || rcode != tt.rcode {
				t.Fatalf("got %d, %v, want %d", rcode, err, tt.rcode)
			}
			raw, err := Reply(q, tt.msg, dns.RcodeRefused, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			var a dns.Msg
			if err := a.Unpack(raw); err != nil || !a.Response || !a.RecursionAvailable || a.Rcode != dns.RcodeRefused || a.Id != q.Id {
				t.Errorf("%x answered with %x: %v", tt.msg, raw, err)
			}
			if opt := a.IsEdns0(); (opt != nil) != tt.edns || opt != nil && opt.UDPSize() != tt.size {
				t.Errorf("answered with %v", opt)
			}
		})
	}
}

// What is a query gets a response with its id, whatever is in it.
func FuzzReply(f *testing.F) {
	raw := packed(f, new(dns.Msg).SetQuestion("a.svc.cluster.local.", dns.TypeSRV).SetEdns0(1232, true))
	f.Add(raw)
	f.Add(raw[:len(raw)-2])
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, _, err := Parse(msg)
		if err != nil {
			return
		}
		got, err := Reply(q, msg, dns.RcodeServerFailure, 1232)
		if err != nil || len(got) < headerSize || got[0] != msg[0] || got[1] != msg[1] || got[2]&0x80 == 0 || got[3]&0xf != dns.RcodeServerFailure {
			t.Fatalf("%x answered with %x, %v", msg, got, err)
		}
	})
}
