package dnsresolver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver/stub"
)

// nameserver serves DNS on a loopback address's port 53 equivalent by UDP and TCP, and returns its port.
func nameserver(t *testing.T, handle dns.HandlerFunc) string {
	t.Helper()
	pc, lis := bothProtocols(t)
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handle}, {Listener: lis, Handler: handle}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return pc.LocalAddr().String()
}

// bothProtocols listens on one port by UDP and TCP. The port that UDP gets may be taken for TCP: then on another.
func bothProtocols(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if lis, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, lis
		}
		_ = pc.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func says(rcode int, ip ...string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetRcode(q, rcode)
		for _, ip := range ip {
			a.Answer = append(a.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip),
			})
		}
		if w.LocalAddr().Network() == "udp" {
			a.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(a)
	}
}

// known is a system whose nameservers are known already: a resolv.conf cannot name a port.
func known(t *testing.T, servers ...string) *system {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return &system{path: path, changed: st.ModTime(), size: st.Size(), servers: servers}
}

func TestNameserversInTheirOrder(t *testing.T) {
	good := nameserver(t, says(dns.RcodeSuccess, "192.0.2.1"))
	unknown := nameserver(t, says(dns.RcodeNameError))
	failing := nameserver(t, says(dns.RcodeServerFailure))
	lis, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := lis.LocalAddr().String()
	_ = lis.Close()
	for _, c := range []struct {
		name    string
		servers []string
		rcode   int // -1: an error
	}{
		{"the first answers", []string{good, unknown}, dns.RcodeSuccess},
		{"NXDOMAIN is an answer", []string{unknown, good}, dns.RcodeNameError},
		{"the first fails", []string{failing, good}, dns.RcodeSuccess},
		{"the first is dead", []string{dead, good}, dns.RcodeSuccess},
		{"all fail", []string{dead, failing}, dns.RcodeServerFailure},
		{"all are dead", []string{dead, dead}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, raw := query(t, "example.com", dns.TypeA)
			got, err := known(t, c.servers...).Exchange(t.Context(), raw)
			if c.rcode < 0 {
				if err == nil {
					t.Errorf("answered %x", got)
				}
				return
			}
			if err != nil || stub.RCode(got) != c.rcode {
				t.Errorf("got %x, %v", got, err)
			}
		})
	}
}

func TestCutAnswerComesByTCP(t *testing.T) {
	var ips []string
	for i := range 200 {
		ips = append(ips, fmt.Sprintf("192.0.2.%d", i))
	}
	_, raw := query(t, "example.com", dns.TypeA)
	got, err := known(t, nameserver(t, says(dns.RcodeSuccess, ips...))).Exchange(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	var a dns.Msg
	if err := a.Unpack(got); err != nil || len(a.Answer) != len(ips) {
		t.Errorf("%d answers, %v", len(a.Answer), err)
	}
}

// TestAnswerToAnotherQuestion: what has the right id only is no answer.
func TestAnswerToAnotherQuestion(t *testing.T) {
	server := nameserver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		forged := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		forged.Question[0].Name = "example.org."
		_ = w.WriteMsg(forged)
		says(dns.RcodeSuccess, "192.0.2.1")(w, q)
	})
	_, raw := query(t, "example.com", dns.TypeA)
	got, err := known(t, server).Exchange(t.Context(), raw)
	if err != nil || stub.RCode(got) != dns.RcodeSuccess {
		t.Errorf("got %x, %v", got, err)
	}
}

func TestResolvConfIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	s := SystemExchanger(path).(*system)
	if _, err := s.nameservers(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, c := range []struct{ conf, want string }{
		{"nameserver 192.0.2.1\nsearch example.com\n", "[192.0.2.1:53]"},
		{"# moved\nnameserver 192.0.2.2\nnameserver 2001:db8::1\n", "[192.0.2.2:53 [2001:db8::1]:53]"},
		{"", "[127.0.0.1:53]"},
	} {
		if err := os.WriteFile(path, []byte(c.conf), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.nameservers(); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("got %v, %v; want %s", got, err, c.want)
		}
	}
}
