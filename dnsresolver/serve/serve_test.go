package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestMessageLengths: a TCP client may send its messages in any pieces.
func TestMessageLengths(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		for _, b := range append(binary.BigEndian.AppendUint16(nil, 3), "abc"...) {
			_, _ = w.Write([]byte{b})
		}
		_ = w.Close()
	}()
	if msg, err := read(r); err != nil || string(msg) != "abc" {
		t.Errorf("%q, %v", msg, err)
	}
	if _, err := read(r); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// many answers with as many addresses as the name's first label says not.
func many(_ context.Context, msg []byte) ([]byte, error) {
	q := new(dns.Msg)
	if err := q.Unpack(msg); err != nil {
		return nil, err
	}
	a := new(dns.Msg)
	a.SetReply(q)
	for i := range 100 {
		a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(10, 0, 0, byte(i))})
	}
	return a.Pack()
}

func TestBothWays(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	var serving sync.WaitGroup
	serving.Go(func() { Packets(t.Context(), pc, many, log) })
	serving.Go(func() { Listener(t.Context(), lis, many, log) })
	q := new(dns.Msg)
	q.SetQuestion("many.example.", dns.TypeA)
	cut, _, err := (&dns.Client{Net: "udp"}).Exchange(q, pc.LocalAddr().String())
	if err != nil || !cut.Truncated || len(cut.Answer) == 0 || len(cut.Answer) == 100 {
		t.Errorf("by UDP: %v, %v; want some of them", cut, err)
	}
	whole, _, err := (&dns.Client{Net: "tcp"}).Exchange(q, pc.LocalAddr().String())
	if err != nil || whole.Truncated || len(whole.Answer) != 100 {
		t.Errorf("by TCP: %v; want the whole", err)
	}
	open, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pc.Close(), lis.Close()); err != nil {
		t.Fatal(err)
	}
	serving.Wait()
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
}
