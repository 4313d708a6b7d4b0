package netstack

import (
	"bytes"
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

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// datagrams is a flow's far end in memory: what the stack writes and what it reads.
type datagrams struct {
	out    chan []byte
	in     chan any // []byte or error
	closed chan struct{}
	end    func()
}

func newDatagrams() *datagrams {
	d := &datagrams{out: make(chan []byte, 64), in: make(chan any, 64), closed: make(chan struct{})}
	d.end = sync.OnceFunc(func() { close(d.closed) })
	return d
}

func (d *datagrams) Read(p []byte) (int, error) {
	select {
	case v := <-d.in:
		if err, ok := v.(error); ok {
			return 0, err
		}
		return copy(p, v.([]byte)), nil
	case <-d.closed:
		return 0, net.ErrClosed
	}
}

func (d *datagrams) Write(p []byte) (int, error) {
	select {
	case <-d.closed:
		return 0, net.ErrClosed
	case d.out <- append([]byte{}, p...):
		return len(p), nil
	}
}

func (d *datagrams) Close() error                     { d.end(); return nil }
func (d *datagrams) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (d *datagrams) RemoteAddr() net.Addr             { return &net.UDPAddr{} }
func (d *datagrams) SetDeadline(time.Time) error      { return nil }
func (d *datagrams) SetReadDeadline(time.Time) error  { return nil }
func (d *datagrams) SetWriteDeadline(time.Time) error { return nil }

// flows makes a DialUDP whose far ends arrive in the channel.
func flows() (func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error), <-chan *datagrams) {
	ends := make(chan *datagrams, 16)
	return func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
		d := newDatagrams()
		ends <- d
		return d, nil
	}, ends
}

// dialUDP is the process's socket, connected to addr. gonet's would sleep through ICMP errors.
func (p *peer) dialUDP(t *testing.T, addr string) *udpConn {
	t.Helper()
	queue, to := new(waiter.Queue), netip.MustParseAddrPort(addr)
	ep, err := p.stack.NewEndpoint(udp.ProtocolNumber, header.IPv4ProtocolNumber, queue)
	if err == nil {
		err = ep.Connect(fullAddress(to))
	}
	if err != nil {
		t.Fatal(err)
	}
	own, err := ep.GetLocalAddress()
	if err != nil {
		t.Fatal(err)
	}
	c := newUDPConn(ep, queue, addrPort(own.Addr, own.Port), to)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serveUDP is the process's socket that waits at port.
func (p *peer) serveUDP(t *testing.T, port uint16) *gonet.UDPConn {
	t.Helper()
	c, err := gonet.DialUDP(p.stack, &tcpip.FullAddress{Port: port}, nil, header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOutboundDatagrams(t *testing.T) {
	dial, ends := flows()
	asked := make(chan [2]netip.AddrPort, 1)
	_, p := start(t, Config{DialUDP: func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
		asked <- [2]netip.AddrPort{src, dst}
		return dial(ctx, src, dst)
	}})
	c := p.dialUDP(t, "10.96.0.1:514")
	// The first ones wait for the dial; the long one travels in pieces.
	sent := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("x"), 60000), []byte("last")}
	for _, b := range sent {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	far := <-ends
	for i, want := range sent {
		if got := <-far.out; !bytes.Equal(got, want) {
			t.Errorf("datagram %d: %d bytes, want %d", i, len(got), len(want))
		}
	}
	for i, want := range sent {
		far.in <- want
		buf := make([]byte, 1<<16)
		if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Errorf("reply %d: %d bytes, %v; want %d", i, n, err, len(want))
		}
	}
	got := <-asked
	if got[0].Addr() != podIP || got[0].String() != c.LocalAddr().String() || got[1].String() != "10.96.0.1:514" {
		t.Errorf("dialled %v", got)
	}
	if len(ends) > 0 {
		t.Error("more than one flow")
	}
}

// TestRefusedDatagrams: the process is told, and may try again.
func TestRefusedDatagrams(t *testing.T) {
	refused := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		name string
		dial error // of the first dial
		read error // of the first flow
	}{
		{"by the dial", refused, nil},
		{"by the flow", nil, refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			dial, ends := flows()
			var once sync.Once
			_, p := start(t, Config{DialUDP: func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
				err := error(nil)
				once.Do(func() { err = c.dial })
				if err != nil {
					return nil, err
				}
				return dial(ctx, src, dst)
			}})
			conn := p.dialUDP(t, "10.96.0.1:514")
			if _, err := conn.Write([]byte("one")); err != nil {
				t.Fatal(err)
			}
			if c.read != nil {
				(<-ends).in <- c.read
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the process was told %v", err)
			}
			if _, err := conn.Write([]byte("two")); err != nil {
				t.Fatal(err)
			}
			if got := <-(<-ends).out; string(got) != "two" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestDatagramsToMany(t *testing.T) {
	dial, ends := flows()
	_, p := start(t, Config{DialUDP: dial})
	for _, to := range []string{"224.0.0.251:5353", "10.96.0.1:514"} {
		c := p.dialUDP(t, to)
		if _, err := c.Write([]byte(to)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-(<-ends).out; string(got) != "10.96.0.1:514" {
		t.Errorf("dialled for %s", got)
	}
}

func TestFlowsAreBounded(t *testing.T) {
	dial, ends := flows()
	s, p := start(t, Config{DialUDP: dial})
	s.mu.Lock()
	s.maxFlows = 2
	s.mu.Unlock()
	open := func() (*udpConn, *datagrams) {
		c := p.dialUDP(t, "10.96.0.1:514")
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		far := <-ends
		<-far.out
		return c, far
	}
	first, firstFar := open()
	_, secondFar := open()
	if _, err := first.Write([]byte("again")); err != nil { // the second is the silent one now
		t.Fatal(err)
	}
	<-firstFar.out
	open()
	<-secondFar.closed
	select {
	case <-firstFar.closed:
		t.Error("the flow in use ended")
	default:
	}
}

func TestInboundDatagrams(t *testing.T) {
	s, p := start(t, Config{})
	server := p.serveUDP(t, 8080)
	dst := netip.MustParseAddrPort("10.42.0.7:8080")
	open := func(src string) net.Conn {
		t.Helper()
		c, err := s.DialUDP(t.Context(), netip.MustParseAddrPort(src), dst)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	exchange := func(c net.Conn, text, seen string) {
		t.Helper()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		n, from, err := server.ReadFrom(buf)
		if err != nil || string(buf[:n]) != text || from.String() != seen {
			t.Fatalf("the process read %d bytes from %v, %v; want %d from %s", n, from, err, len(text), seen)
		}
		if _, err := server.WriteTo(append(buf[:n], '!'), from); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != text+"!" {
			t.Fatalf("the client read %d bytes, %v", n, err)
		}
	}
	first := open("192.0.2.1:4000")
	exchange(first, "hello", "192.0.2.1:4000")
	exchange(first, "", "192.0.2.1:4000")
	exchange(first, strings.Repeat("y", 50000), "192.0.2.1:4000")
	exchange(open("192.0.2.1:4001"), "another port", "192.0.2.1:4001")
	exchange(open("127.0.0.1:4000"), "a sidecar", "192.0.0.8:4000")
	again := open("192.0.2.1:4000") // the agent has forgotten the flow before
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the flow that was replaced: %v", err)
	}
	_ = first.Close()
	exchange(again, "again", "192.0.2.1:4000")

	closed, err := s.DialUDP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:9"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closed.Close() }()
	closed.(*seeker).settle() // the peer takes nothing for loopback from a device: it would not even refuse
	if _, err := io.WriteString(closed, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := closed.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
}

// TestAnswersToAnInboundFlowTakeItsPlace: a process that asked a client is asked by it.
func TestClientThatWasAskedAnswers(t *testing.T) {
	dial, ends := flows()
	s, p := start(t, Config{DialUDP: dial})
	server := p.serveUDP(t, 8080)
	if _, err := server.WriteTo([]byte("are you there"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4000}); err != nil {
		t.Fatal(err)
	}
	far := <-ends
	<-far.out
	c, err := s.DialUDP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "yes"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "yes" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	<-far.closed
}

// TestSeeker: what nobody takes in one place is sent to the next, whole and in order.
func TestSeeker(t *testing.T) {
	refused := &net.OpError{Op: "read", Err: syscall.ECONNREFUSED}
	here, there, nobody := newDatagrams(), newDatagrams(), newDatagrams()
	c := &seeker{cur: nobody, next: []func() (net.Conn, error){
		func() (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		func() (net.Conn, error) { return here, nil },
		func() (net.Conn, error) { return there, nil },
	}}
	for _, text := range []string{"one", "", "three"} {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	nobody.in <- refused
	here.in <- []byte("hello")
	buf := make([]byte, 16)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	for _, want := range []string{"one", "", "three"} {
		if got := <-here.out; string(got) != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
	<-nobody.closed
	here.in <- refused // it listened, and ended: nobody else is asked
	if _, err := c.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-here.closed
	if _, err := c.Read(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if len(there.out) > 0 {
		t.Error("another place was tried")
	}
}

// TestInboundReachesLoopback: where no packet leads to, Config.DialLoopback does.
func TestInboundReachesLoopback(t *testing.T) {
	far := newDatagrams()
	asked := make(chan string, 8)
	s, _ := start(t, Config{DialLoopback: func(_ context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
		asked <- network + " " + dst.String()
		return far, nil
	}})
	c, err := s.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:80"))
	if err != nil {
		t.Fatal(err)
	}
	if c != net.Conn(far) {
		t.Errorf("got %v", c)
	}
	if got := <-asked; got != "tcp [::1]:80" {
		t.Errorf("asked for %s", got)
	}
}
