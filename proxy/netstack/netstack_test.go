package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/teleswap/teleswap/proxy/tun"
)

func TestConfigIsChecked(t *testing.T) {
	dial := func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) { return nil, nil }
	for _, c := range []struct {
		name string
		cfg  Config
	}{
		{"no device", Config{DialTCP: dial}},
		{"no dialler", Config{}},
		{"nameservers that nobody answers for", Config{DialTCP: dial, Nameservers: []netip.Addr{podIP}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			device, other := tun.Pair(1500)
			defer func() { _ = other.Close() }()
			if c.name != "no device" {
				c.cfg.Device = device
			}
			if s, err := New(c.cfg); err == nil {
				t.Error("accepted")
				_ = s.Close()
			}
			if c.cfg.Device == nil {
				return
			}
			if err := other.Write([][]byte{{1}}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the device was left open: %v", err)
			}
		})
	}
}

func TestRefusedByErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string // as the peer's stack says it
	}{
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "connection was refused"},
		{syscall.EHOSTUNREACH, "no route to host"},
		{syscall.ENETUNREACH, "network is unreachable"},
		{errors.New("whatever"), "no route to host"},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			_, p := start(t, Config{DialTCP: func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
				return nil, c.err
			}})
			conn, err := p.dial(t, "10.96.0.1:80")
			if err == nil {
				_ = conn.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("connect: %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestOutbound(t *testing.T) {
	t.Run("half-close both ways", func(t *testing.T) {
		dial, ends := dialled(t)
		_, p := start(t, Config{DialTCP: dial})
		c, err := p.dial(t, "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		other := <-ends
		if _, err := io.WriteString(c, "question"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(other); err != nil || string(b) != "question" {
			t.Fatalf("%q, %v", b, err)
		}
		if _, err := io.WriteString(other, "answer"); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
			t.Fatalf("%q, %v", b, err)
		}
	})
	t.Run("a reset of the process", func(t *testing.T) {
		dial, ends := dialled(t)
		_, p := start(t, Config{DialTCP: dial})
		c, err := p.dial(t, "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		other := <-ends
		for _, ep := range p.stack.RegisteredEndpoints() {
			ep.Abort()
		}
		<-other.reset
		_ = c.Close()
	})
	t.Run("a reset of the other end", func(t *testing.T) {
		dial, ends := dialled(t)
		_, p := start(t, Config{DialTCP: dial})
		c, err := p.dial(t, "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		other := (<-ends).Conn.(*net.TCPConn)
		if err := errors.Join(other.SetLinger(0), other.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("the process read %v", err)
		}
	})
}

// TestSYNWaitsForTheDial: the process's connect() returns only once the dial did.
func TestSYNWaitsForTheDial(t *testing.T) {
	dial, ends := dialled(t)
	asked, answer := make(chan netip.AddrPort), make(chan struct{})
	_, p := start(t, Config{DialTCP: func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
		asked <- dst
		<-answer
		return dial(ctx, src, dst)
	}})
	connected := make(chan error, 1)
	go func() {
		c, err := p.dial(t, "10.96.0.1:80")
		if err == nil {
			_ = c.Close()
		}
		connected <- err
	}()
	if dst := <-asked; dst != netip.MustParseAddrPort("10.96.0.1:80") {
		t.Errorf("dialled %v", dst)
	}
	select {
	case err := <-connected:
		t.Errorf("connected before the dial returned: %v", err)
	case <-time.After(50 * time.Millisecond): // a wrong SYN-ACK would have come in some microseconds
	}
	close(answer)
	if err := <-connected; err != nil {
		t.Error(err)
	}
	<-ends
}

func TestInbound(t *testing.T) {
	s, p := start(t, Config{})
	lis := p.listen(t, 8080)
	src, dst := netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:8080")
	c, err := s.DialTCP(t.Context(), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if c.LocalAddr().String() != src.String() || c.RemoteAddr().String() != dst.String() {
		t.Errorf("from %v to %v", c.LocalAddr(), c.RemoteAddr())
	}
	in, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if in.RemoteAddr().String() != src.String() {
		t.Errorf("the process sees %v", in.RemoteAddr())
	}
	if _, err := io.WriteString(in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	wantLine(t, c, "hello\n")

	again, err := s.DialTCP(t.Context(), src, dst)
	if err != nil {
		t.Fatalf("the same two addresses again: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the connection that was replaced: %v", err)
	}
	c = again
	defer func() { _ = again.Close() }()
	own := netip.AddrPortFrom(podIP, 4000) // is shown as another address, and may be two clients
	first, err := s.DialTCP(t.Context(), own, dst)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if _, err := s.DialTCP(t.Context(), own, dst); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("two clients that are shown as one: %v", err)
	}
	if _, err := s.DialTCP(t.Context(), src, netip.MustParseAddrPort("10.42.0.7:9")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.DialTCP(ctx, src, netip.MustParseAddrPort("10.42.0.8:9")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an address that is nobody's: %v", err)
	}
	for _, ep := range p.stack.RegisteredEndpoints() {
		ep.Abort()
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the process's reset: %v", err)
	}
}

// TestResetAfterWrite: the stack tells a reset once, to whoever asks first.
func TestResetAfterWrite(t *testing.T) {
	s, p := start(t, Config{})
	lis := p.listen(t, 8080)
	c, err := s.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	in, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	for _, ep := range p.stack.RegisteredEndpoints() {
		ep.Abort()
	}
	for err == nil && t.Context().Err() == nil {
		_, err = c.Write([]byte("x"))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("write: %v", err)
	}
	for range 2 {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read after the write that was told: %v", err)
		}
	}
}

func TestConn(t *testing.T) {
	s, p := start(t, Config{Buffer: 64 << 10})
	lis := p.listen(t, 8080)
	dst := netip.MustParseAddrPort("10.42.0.7:8080")
	c, err := s.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), dst)
	if err != nil {
		t.Fatal(err)
	}
	in, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	passed := func(name string, err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s: %v", name, err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(-time.Second))
	_, err = c.Read(make([]byte, 1))
	passed("a deadline that has passed", err)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	passed("a deadline that passes", err)
	_ = c.SetReadDeadline(time.Time{})
	waits := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		waits <- err
	}()
	_ = c.SetReadDeadline(time.Now())
	passed("a deadline set while a read waits", <-waits)
	_ = c.SetDeadline(time.Time{})
	_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := c.Write(make([]byte, 16<<20)) // more than all buffers hold
	passed("a write that nobody reads", err)
	if n == 0 || n == 16<<20 {
		t.Errorf("wrote %d bytes", n)
	}
	go func() {
		_, err := c.Read(make([]byte, 1))
		waits <- err
	}()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waits while it is closed: %v", err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

// TestClose: whatever is under way ends with the stack. goleak sees the rest.
func TestClose(t *testing.T) {
	dial, ends := dialled(t)
	var once sync.Once
	hangs := make(chan struct{})
	s, p := start(t, Config{DialTCP: func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
		if dst.Port() == 80 {
			return dial(ctx, src, dst)
		}
		once.Do(func() { close(hangs) })
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	lis := p.listen(t, 8080)
	out, err := p.dial(t, "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	other := <-ends
	in, err := s.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:8080"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := lis.Accept(); err == nil {
		defer func() { _ = c.Close() }()
	}
	gaveUp := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := gonet.DialContextTCP(ctx, p.stack, fullAddress(netip.MustParseAddrPort("10.96.0.1:81")), header.IPv4ProtocolNumber)
		gaveUp <- err
	}()
	<-hangs
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-other.reset
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("an inbound connection outlives the stack")
	}
	if _, err := s.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4001"), netip.MustParseAddrPort("10.42.0.7:8080")); err == nil {
		t.Error("dialled on a closed stack")
	}
	if err := <-gaveUp; err == nil {
		t.Error("connected through a closed stack")
	}
}

func TestDNS(t *testing.T) {
	_, p := start(t, Config{
		Nameservers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.96.0.11")},
		DNS: func(_ context.Context, raw []byte) ([]byte, error) {
			var q dns.Msg
			if err := q.Unpack(raw); err != nil {
				return nil, err
			}
			a := new(dns.Msg).SetReply(&q)
			for i := range 100 {
				a.Answer = append(a.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 96, 1, byte(i)),
				})
			}
			return a.Pack()
		},
	})
	ask := func(c net.Conn, q *dns.Msg) *dns.Msg {
		t.Helper()
		a, _, err := (&dns.Client{Net: c.LocalAddr().Network(), UDPSize: 4096}).ExchangeWithConn(q, &dns.Conn{Conn: c, UDPSize: 4096})
		if err != nil {
			t.Fatal(err)
		}
		a.Compress = true // for Len, as it came
		return a
	}
	udp, err := gonet.DialUDP(p.stack, nil, ref(fullAddress(netip.MustParseAddrPort("10.96.0.11:53"))), header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	question := func() *dns.Msg { return new(dns.Msg).SetQuestion("many.example.", dns.TypeA) }
	if a := ask(udp, question()); !a.Truncated || a.Len() > dns.MinMsgSize {
		t.Errorf("%d bytes to one who takes 512, truncated: %v", a.Len(), a.Truncated)
	}
	if a := ask(udp, question().SetEdns0(4096, false)); a.Truncated || len(a.Answer) != 100 {
		t.Errorf("%d answers to one who takes 4096 bytes", len(a.Answer))
	}
	tcp, err := p.dial(t, "10.96.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	for range 2 {
		if a := ask(tcp, question()); a.Truncated || len(a.Answer) != 100 {
			t.Errorf("%d answers by TCP", len(a.Answer))
		}
	}
}

func ref[T any](v T) *T { return &v }

func FuzzPackets(f *testing.F) {
	syn := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	header.IPv4(syn).Encode(&header.IPv4Fields{TotalLength: uint16(len(syn)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber)})
	f.Add(syn)
	six := make([]byte, header.IPv6MinimumSize+header.ICMPv6EchoMinimumSize)
	header.IPv6(six).Encode(&header.IPv6Fields{PayloadLength: 8, TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 1})
	six[header.IPv6MinimumSize] = byte(header.ICMPv6EchoRequest)
	f.Add(six)
	f.Fuzz(func(t *testing.T, packet []byte) {
		reply := unreachable(packet, portUnreachable)
		if len(reply) > 0 && len(reply) > len(packet)+header.IPv6MinimumSize+header.ICMPv6MinimumSize {
			t.Fatalf("%x answered with %x", packet, reply)
		}
		e, is := parseEcho(packet)
		if !is || e.part {
			return
		}
		if reply := e.reply(); len(reply) != len(packet) || len(e.payload()) > len(packet)-e.icmp {
			t.Fatalf("%x answered with %x, payload %x", packet, reply, e.payload())
		}
	})
}
