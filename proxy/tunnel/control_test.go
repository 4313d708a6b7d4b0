package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

const soon = 20 * time.Second // longer than anything here takes on a busy machine

func TestControlRequests(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect(t)
	if err := errors.Join(
		c.SetReady(t.Context(), true), c.SetReady(t.Context(), false), c.Hold(t.Context()),
		c.HandOver(t.Context(), []netip.Addr{netip.MustParseAddr("10.244.0.9"), netip.MustParseAddr("fd00::9")}),
	); err != nil {
		t.Fatal(err)
	}
	r.control.mu.Lock()
	if !slices.Equal(r.control.ready, []bool{true, false}) || r.control.holds != 1 || len(r.control.addrs) != 2 {
		t.Errorf("the agent heard %v, %d holds, %v", r.control.ready, r.control.holds, r.control.addrs)
	}
	r.control.err = errors.New("cannot be done")
	r.control.mu.Unlock()
	if err := c.Hold(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be done") {
		t.Errorf("got %v", err)
	}
	if took, err := c.RoundTrip(t.Context()); err != nil || took <= 0 {
		t.Errorf("a round trip took %s, %v", took, err)
	}
	_ = c.Close()
	if err := c.Hold(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if _, err := c.RoundTrip(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a round trip after close: %v", err)
	}
}

func TestViewAndExchange(t *testing.T) {
	r := newRig(t, func(cfg *ServerConfig) {
		cfg.Resolve = func(_ context.Context, msg []byte) ([]byte, error) {
			if string(msg) == "bad" {
				return nil, errors.New("no nameserver answered")
			}
			return append([]byte("re: "), msg...), nil
		}
	})
	c := r.connect(t)
	view, err := c.PodView(t.Context())
	if err != nil || view.GetName() != "pod-1" {
		t.Errorf("got %v, %v", view, err)
	}
	answer, err := c.Exchange(t.Context(), []byte("question"))
	if err != nil || string(answer) != "re: question" {
		t.Errorf("got %q, %v", answer, err)
	}
	if _, err := c.Exchange(t.Context(), []byte("bad")); err == nil || !strings.HasSuffix(err.Error(), ": no nameserver answered") {
		t.Errorf("got %v", err)
	}
}

func TestEvents(t *testing.T) {
	r := newRig(t, nil)
	r.server.Announce(ListenFailed{Port: 80, Err: errors.New("permission denied")}) // before anybody listens
	c := r.connect(t)
	r.server.Announce(PodShutdown{Grace: 25 * time.Second})
	first, second := <-c.Events(), <-c.Events()
	if e, ok := first.(ListenFailed); !ok || e.Port != 80 || e.Err.Error() != "permission denied" {
		t.Errorf("first event %#v", first)
	}
	if second != (PodShutdown{Grace: 25 * time.Second}) {
		t.Errorf("second event %#v", second)
	}
	_ = c.Close()
	if _, open := <-c.Events(); open {
		t.Error("events go on after close")
	}
}

func TestCloseSaysGoodbye(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect(t)
	if !<-r.control.laptop {
		t.Fatal("the agent did not notice the laptop")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if <-r.control.laptop {
		t.Error("the agent did not notice its end")
	}
	if !errors.Is(c.Err(), ErrClosed) {
		t.Errorf("got %v", c.Err())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// stallConn stops to deliver what arrives, as a network that went away does.
type stallConn struct {
	net.Conn
	stalled chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func newStallConn(conn net.Conn) *stallConn {
	return &stallConn{Conn: conn, stalled: make(chan struct{}), closed: make(chan struct{})}
}

func (c *stallConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.stalled:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *stallConn) Write(p []byte) (int, error) {
	select {
	case <-c.stalled:
		return len(p), nil // into the void
	default:
		return c.Conn.Write(p)
	}
}

func (c *stallConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestSilenceEndsTheTunnel(t *testing.T) {
	r := newRig(t, func(cfg *ServerConfig) { cfg.Heartbeat = 300 * time.Millisecond })
	var stall *stallConn
	c, err := Connect(t.Context(), ClientConfig{Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := r.dial(ctx)
		if err != nil {
			return nil, err
		}
		stall = newStallConn(conn)
		return stall, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if !<-r.control.laptop {
		t.Fatal("the agent did not notice the laptop")
	}
	close(stall.stalled)
	select {
	case <-c.Done():
		if !strings.Contains(c.Err().Error(), "no word from the agent") {
			t.Errorf("laptop: %v", c.Err())
		}
	case <-time.After(soon):
		t.Error("the laptop does not notice")
	}
	select {
	case connected := <-r.control.laptop:
		if connected {
			t.Error("the agent noticed the wrong thing")
		}
	case <-time.After(soon):
		t.Error("the agent does not notice")
	}
}

func TestLiveTunnelOutlastsPatience(t *testing.T) {
	r := newRig(t, func(cfg *ServerConfig) { cfg.Heartbeat = 200 * time.Millisecond })
	c := r.connect(t)
	select {
	case <-c.Done():
		t.Errorf("ended: %v", c.Err())
	case <-time.After(5 * patience * 200 * time.Millisecond / 2):
	}
}

func TestVersionMismatch(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect(t)
	<-r.control.laptop
	stream, err := c.conn.NewStream(t.Context(), rawStream(methodControl), methodPath(methodControl))
	if err != nil {
		t.Fatal(err)
	}
	hello := &tunnelpb.ControlRequest{Kind: &tunnelpb.ControlRequest_Hello{Hello: &tunnelpb.Hello{Version: 99}}}
	if err := stream.SendMsg(hello); err != nil {
		t.Fatal(err)
	}
	var event tunnelpb.ControlEvent
	if err := stream.RecvMsg(&event); err != nil || event.GetWelcome().GetVersion() != protocolVersion {
		t.Errorf("got %v, %v", &event, err)
	}
	if err := stream.RecvMsg(&event); status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// A laptop that breaks the byte count has its connection reset, and only that.
func TestViolationIsReset(t *testing.T) {
	tests := []struct {
		name    string
		violate func(*frameStream) error
	}{
		{"offset", func(f *frameStream) error {
			f.sent.bytes = 1000
			b := f.buffers.Get(frameHeader + 1)
			return f.send(kindData, b)
		}},
		{"kind out of place", func(f *frameStream) error { return f.sendBody(kindAccepted, nil) }},
		{"data after fin", func(f *frameStream) error {
			b := f.buffers.Get(frameHeader + 1)
			return errors.Join(f.sendBody(kindFin, nil), f.send(kindData, b))
		}},
	}
	c := newRig(t, nil).connect(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := pair(t, c)
			if err := tt.violate(&near.frames); err != nil {
				t.Fatal(err)
			}
			_, err := io.ReadAll(near)
			if !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), "frame") {
				t.Errorf("laptop got %v", err)
			}
			if _, err := io.ReadAll(far); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("pod's end got %v", err)
			}
			if c.Err() != nil {
				t.Errorf("the tunnel ended: %v", c.Err())
			}
		})
	}
}

func TestParkingGrowsAndRefills(t *testing.T) {
	const n = 200
	r := newRig(t, nil)
	c := r.connect(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	accepted := make(chan net.Conn, n)
	done := make(chan error, 1)
	go func() {
		done <- c.Accept(ctx, func(_ context.Context, in *Inbound) {
			conn, err := in.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			accepted <- conn
		})
	}()
	var wg sync.WaitGroup
	for range n {
		client, server := tcpPair(t)
		wg.Go(func() {
			if err := r.server.Deliver(t.Context(), server); err != nil {
				t.Error(err)
			}
			_, _ = client.Write([]byte{1})
		})
	}
	wg.Wait()
	for range n {
		conn := <-accepted
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	}
	if got := r.server.Waiting(); got != 0 {
		t.Errorf("%d still wait", got)
	}
	enough := errors.New("enough")
	cancel(enough)
	if err := <-done; !errors.Is(err, enough) {
		t.Errorf("accept returned %v", err)
	}
	// Nobody parks any more.
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, server := tcpPair(t)
	if err := r.server.Deliver(short, server); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrNotDelivered) {
		t.Errorf("delivered to nobody: %v", err)
	}
}

func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

func TestRefusalAndUnanswered(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	answers := make(chan func(*Inbound), 2)
	go func() {
		defer close(done)
		_ = c.Accept(ctx, func(_ context.Context, in *Inbound) { (<-answers)(in) })
	}()
	defer func() { cancel(); <-done }()
	answers <- func(in *Inbound) {
		if err := in.Refuse(syscall.ETIMEDOUT); err != nil {
			t.Error(err)
		}
		if _, err := in.Accept(); err == nil {
			t.Error("accepted after refusing")
		}
	}
	_, server := tcpPair(t)
	if err := r.server.Deliver(t.Context(), server); !errors.Is(err, ErrRefused) || !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("got %v", err)
	}
	answers <- func(*Inbound) {}
	if err := r.server.Deliver(t.Context(), server); !errors.Is(err, ErrRefused) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("unanswered: got %v", err)
	}
}

func TestUndeliveredStaysTheCallers(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect(t)
	arrived := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.Accept(t.Context(), func(ctx context.Context, _ *Inbound) {
			close(arrived)
			<-ctx.Done()
		})
	}()
	client, server := tcpPair(t)
	delivered := make(chan error, 1)
	go func() { delivered <- r.server.Deliver(t.Context(), server) }()
	<-arrived
	_ = c.Close()
	if err := <-delivered; !errors.Is(err, ErrNotDelivered) {
		t.Errorf("got %v", err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("accept returned %v", err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Errorf("the connection was touched: %v", err)
	}
}
