package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// flowPair is a flow through the tunnel: the laptop's end, and the socket in the pod's place
// that it was dialled to.
func flowPair(tb testing.TB, c *Client) (*Flow, *net.UDPConn) {
	tb.Helper()
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	near, err := c.DialContext(tb.Context(), "udp", far.LocalAddr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	_ = near.SetDeadline(time.Now().Add(soon))
	_ = far.SetDeadline(time.Now().Add(soon))
	return near.(*Flow), far
}

func TestFlowKeepsDatagrams(t *testing.T) {
	near, far := flowPair(t, newRig(t, nil).connect(t))
	if _, ok := near.LocalAddr().(*net.UDPAddr); !ok || near.RemoteAddr().String() != far.LocalAddr().String() {
		t.Errorf("addresses %v, %v", near.LocalAddr(), near.RemoteAddr())
	}
	buf := make([]byte, 1<<16)
	for _, size := range []int{1, 0, 5, smallFrame, 0, largeFrame, 1472, maxDatagram} {
		want := bytes.Repeat([]byte{byte(size), 7}, size/2+1)[:size]
		if _, err := near.Write(want); err != nil {
			t.Fatalf("write %d: %v", size, err)
		}
		n, from, err := far.ReadFromUDP(buf)
		if err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("sent %d bytes, got %d, %v", size, n, err)
		}
		if from.String() != near.LocalAddr().String() {
			t.Errorf("from %s, want %s", from, near.LocalAddr())
		}
		if _, err := far.WriteToUDP(want, from); err != nil {
			t.Fatal(err)
		}
		if n, err = near.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("answer of %d bytes: got %d, %v", size, n, err)
		}
	}
}

func TestFlowCutsAndRefuses(t *testing.T) {
	near, far := flowPair(t, newRig(t, nil).connect(t))
	if _, err := near.Write(make([]byte, maxDatagram+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("an oversize datagram: %v", err)
	}
	if _, err := near.Write([]byte("hello")); err != nil { // the flow goes on
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	_, from, err := far.ReadFromUDP(buf)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"first and long", "second"} {
		if _, err := far.WriteToUDP([]byte(s), from); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := near.Read(buf[:5]); string(buf[:n]) != "first" || err != nil {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if n, err := near.Read(buf); string(buf[:n]) != "second" || err != nil {
		t.Errorf("got %q, %v: the rest of a longer datagram is lost", buf[:n], err)
	}
	_ = near.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := near.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past its deadline: %v", err)
	}
}

func TestFlowPortUnreachable(t *testing.T) {
	near, far := flowPair(t, newRig(t, nil).connect(t))
	_ = far.Close()
	if _, err := near.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	_, err := near.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Net != "udp" {
		t.Errorf("got %#v, want ECONNREFUSED", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("write on an ended flow: %v", err)
	}
}

func TestFlowDialErrors(t *testing.T) {
	c := newRig(t, func(cfg *ServerConfig) {
		cfg.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			return nil, os.NewSyscallError("connect", syscall.ENETUNREACH)
		}
	}).connect(t)
	_, err := c.DialContext(t.Context(), "udp4", "10.1.2.3:53")
	var op *net.OpError
	if !errors.Is(err, syscall.ENETUNREACH) || !errors.As(err, &op) || op.Addr.Network() != "udp" {
		t.Errorf("got %v", err)
	}
}

// A connection in full flow gets large buffers, one that falls silent gives them back.
func TestNextSize(t *testing.T) {
	tests := []struct{ size, n, want int }{
		{smallFrame, 100, smallFrame},
		{smallFrame, smallFrame, largeFrame},
		{largeFrame, smallFrame + 1, largeFrame},
		{largeFrame, largeFrame, busyFrame},
		{busyFrame, busyFrame, busyFrame},
		{busyFrame, largeFrame + 1, busyFrame},
		{busyFrame, largeFrame, largeFrame},
		{busyFrame, smallFrame, smallFrame},
	}
	for _, tt := range tests {
		if got := nextSize(tt.size, tt.n); got != tt.want {
			t.Errorf("%d after %d of %d, want %d", got, tt.n, tt.size, tt.want)
		}
	}
}

// fakeFlow is what the agent delivers for a client of a UDP port.
type fakeFlow struct {
	net.Conn // nil
	in       chan []byte
	out      chan []byte
	closed   chan struct{}
}

func newFakeFlow() *fakeFlow {
	return &fakeFlow{in: make(chan []byte), out: make(chan []byte, 16), closed: make(chan struct{})}
}

func (f *fakeFlow) ReadDatagram() ([]byte, error) {
	select {
	case p, ok := <-f.in:
		if !ok {
			return nil, io.EOF
		}
		return p, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

func (f *fakeFlow) Write(p []byte) (int, error) {
	if len(p) == 13 { // the way does not carry it
		return 0, os.NewSyscallError("sendto", syscall.EMSGSIZE)
	}
	f.out <- bytes.Clone(p)
	return len(p), nil
}

func (f *fakeFlow) Close() error {
	if !isClosed(f.closed) { // called one at a time here
		close(f.closed)
	}
	return nil
}

func (f *fakeFlow) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(v4) }
func (f *fakeFlow) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(v6) }

// deliverFlow brings a flow to a laptop that accepts it.
func deliverFlow(t *testing.T) (*Client, *fakeFlow, net.Conn) {
	t.Helper()
	r := newRig(t, nil)
	c := r.connect(t)
	accepted := make(chan net.Conn, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Accept(ctx, func(_ context.Context, in *Inbound) {
			if in.Network != "udp" || in.Local != v4 || in.Remote != v6 {
				t.Errorf("arrived %+v", in)
			}
			conn, err := in.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- conn
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err == nil {
			t.Error("accepting ended without a reason")
		}
	})
	f := newFakeFlow()
	if err := r.server.Deliver(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	conn := <-accepted
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(soon))
	return c, f, conn
}

func TestInboundFlow(t *testing.T) {
	_, f, conn := deliverFlow(t)
	if _, ok := conn.(*Flow); !ok {
		t.Fatalf("accepted a %T", conn)
	}
	buf := make([]byte, 64)
	for _, want := range []string{"one", "", "three"} {
		f.in <- []byte(want)
		if n, err := conn.Read(buf); string(buf[:n]) != want || err != nil {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
	for _, s := range []string{"a", "", "thirteen byte", "b"} { // one is lost on the way
		if _, err := conn.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"a", "", "b"} {
		if got := <-f.out; string(got) != want {
			t.Errorf("the client got %q, want %q", got, want)
		}
	}
	close(f.in) // a minute of silence
	if _, err := conn.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("an ended flow: %v", err)
	}
	<-f.closed
}

func TestInboundFlowClosedByLaptop(t *testing.T) {
	_, f, conn := deliverFlow(t)
	if _, err := conn.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-f.out; string(got) != "last" {
		t.Errorf("got %q", got)
	}
	<-f.closed
	if _, err := conn.Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestLaptopGoneAmidAFlow(t *testing.T) {
	c, f, conn := deliverFlow(t)
	_ = c.conn.Close() // no goodbye
	<-f.closed
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

// What a flow's stream must not carry, and a connection's neither.
func TestFlowViolations(t *testing.T) {
	c := newRig(t, nil).connect(t)
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	tests := []struct {
		name    string
		network network
		addr    string
		frame   func(*frameStream) error
	}{
		{"FIN in a flow", networkUDP, far.LocalAddr().String(), func(f *frameStream) error { return f.sendBody(kindFin, nil) }},
		{"oversize datagram", networkUDP, far.LocalAddr().String(), func(f *frameStream) error {
			return f.sendBody(kindData, make([]byte, maxDatagram+1))
		}},
		{"empty DATA in a connection", networkTCP, echoServer(t), func(f *frameStream) error { return f.sendBody(kindData, nil) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := c.dial(t.Context(), tt.network, netip.MustParseAddrPort(tt.addr))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := tt.frame(&conn.frames); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(soon))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	}
}
