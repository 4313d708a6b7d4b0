package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// udpEcho echoes datagrams with a word in front until the test ends.
func udpEcho(t *testing.T, addr, word string) *net.UDPConn {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp4", a)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDP(append([]byte(word), buf[:n]...), from)
		}
	})
	t.Cleanup(func() {
		_ = c.Close()
		wg.Wait()
	})
	return c
}

// echoFlow is the laptop's process: it answers each datagram with a word in front.
func echoFlow(t *testing.T, word string) func(*tunnel.Inbound) {
	return func(in *tunnel.Inbound) {
		if in.Network != "udp" {
			t.Errorf("a %s connection", in.Network)
		}
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		// A flow has no end of its own before its minute of silence.
		defer context.AfterFunc(t.Context(), func() { _ = conn.Close() })()
		buf := make([]byte, 1<<16)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if _, err := conn.Write(append([]byte(word), buf[:n]...)); err != nil {
				return
			}
		}
	}
}

func dialUDP(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.UDPConn)
}

// insist sends a datagram until an answer comes: UDP may lose either, and the agent drops
// what comes while nobody serves.
func insist(t *testing.T, conn *net.UDPConn, question, want string) {
	t.Helper()
	buf := make([]byte, 1<<16)
	got := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if _, err := conn.Write([]byte(question)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.Read(buf)
		if err != nil {
			continue
		}
		if got = string(buf[:n]); got == want {
			return
		}
	}
	t.Fatalf("the last answer to %q was %q, want %q", question, got, want)
}

func withUDP(c *Config) { c.ListenUDP = []uint16{53} }

func TestInboundUDP(t *testing.T) {
	t.Parallel()
	p := startPod(t, withUDP)
	c := p.connect(t)
	seen := make(chan *tunnel.Inbound, 8)
	acceptAll(t, c, func(in *tunnel.Inbound) {
		seen <- in
		echoFlow(t, "re: ")(in)
	})
	first, second := dialUDP(t, p.udp), dialUDP(t, p.udp)
	insist(t, first, "hello", "re: hello")
	in := <-seen
	if in.Remote.String() != first.LocalAddr().String() || in.Local.String() != p.udp {
		t.Errorf("arrived from %s to %s", in.Remote, in.Local)
	}
	insist(t, second, "", "re: ")
	insist(t, first, "again", "re: again") // the same flow
	if in := <-seen; in.Remote.String() != second.LocalAddr().String() {
		t.Errorf("second flow from %s", in.Remote)
	}
	if len(seen) > 0 {
		t.Error("a client has two flows")
	}
	view, err := c.PodView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ports := view.GetPorts()
	if i := slices.IndexFunc(ports, func(s *tunnel.PortState) bool { return s.GetProtocol() == "udp" }); i < 0 || ports[i].GetPort() != 53 {
		t.Errorf("ports: %v", ports)
	}
}

func TestOutboundUDP(t *testing.T) {
	t.Parallel()
	c := startPod(t, nil).connect(t)
	server := udpEcho(t, "127.0.0.1:0", "from the pod: ")
	conn, err := c.DialContext(t.Context(), "udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := conn.Read(buf); string(buf[:n]) != "from the pod: x" || err != nil {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

// Nobody takes datagrams while the agent holds; after a hand-over the originals do, also of a
// client that the laptop had served before; and then the laptop again.
func TestUDPHandOver(t *testing.T) {
	t.Parallel()
	p := startPod(t, withUDP)
	c := p.connect(t)
	acceptAll(t, c, echoFlow(t, "laptop: "))
	client := dialUDP(t, p.udp)
	insist(t, client, "1", "laptop: 1")
	if err := c.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(p.udp).Port()
	udpEcho(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), port).String(), "original: ")
	if err := c.HandOver(t.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.7")}); err != nil {
		t.Fatal(err)
	}
	insist(t, client, "2", "original: 2")
	insist(t, dialUDP(t, p.udp), "3", "original: 3")
	if err := c.SetReady(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	insist(t, client, "4", "laptop: 4")
}

func TestLaptopGoneAmidAUDPFlow(t *testing.T) {
	t.Parallel()
	p := startPod(t, withUDP)
	c := p.connect(t)
	stop := acceptAll(t, c, echoFlow(t, "one: "))
	client := dialUDP(t, p.udp)
	insist(t, client, "a", "one: a")
	_ = c.Close()
	stop()
	if _, err := client.Write([]byte("lost")); err != nil { // nobody takes it, nothing breaks
		t.Error(err)
	}
	acceptAll(t, p.connect(t), echoFlow(t, "two: "))
	insist(t, client, "b", "two: b")
}

// fakeTunnel takes flows, or refuses them.
type fakeTunnel struct {
	refuse bool
	taken  chan *flow
}

func (f *fakeTunnel) Deliver(_ context.Context, conn net.Conn) error {
	if f.refuse {
		return tunnel.ErrRefused
	}
	f.taken <- conn.(*flow)
	return nil
}

// flowLab is the flows of one socket without an agent around it.
type flowLab struct {
	*flows
	addr string
	mu   sync.Mutex
	mode mode
}

func newFlowLab(t *testing.T, d deliverer, silence time.Duration) *flowLab {
	t.Helper()
	l := &flowLab{}
	changed := make(chan struct{})
	l.flows = newFlows(d, slog.New(slog.NewTextHandler(testLog{t}, nil)), func() (mode, []netip.Addr, <-chan struct{}) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mode, nil, changed
	}, func() {})
	l.silence = silence
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := newFlowSocket(conn)
	if err != nil {
		t.Fatal(err)
	}
	l.addr = conn.LocalAddr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.receive(ctx, socket)
	}()
	t.Cleanup(func() {
		cancel()
		_ = conn.Close()
		<-done
		l.wait()
	})
	return l
}

func (l *flowLab) count() int {
	l.flows.mu.Lock()
	defer l.flows.mu.Unlock()
	return len(l.open)
}

func TestFlowEndsInSilence(t *testing.T) {
	t.Parallel()
	d := &fakeTunnel{taken: make(chan *flow, 1)}
	l := newFlowLab(t, d, 80*time.Millisecond)
	client := dialUDP(t, l.addr)
	if _, err := client.Write([]byte("once")); err != nil {
		t.Fatal(err)
	}
	fl := <-d.taken
	if p, err := fl.ReadDatagram(); string(p) != "once" || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
	if _, err := fl.ReadDatagram(); !errors.Is(err, io.EOF) { // waits for the silence
		t.Errorf("got %v", err)
	}
	_ = fl.Close() // as the tunnel does
	l.wait()
	if n := l.count(); n != 0 {
		t.Errorf("%d flows left", n)
	}
	if _, err := fl.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestFlowDrops(t *testing.T) {
	t.Parallel()
	d := &fakeTunnel{refuse: true, taken: make(chan *flow, 1)}
	l := newFlowLab(t, d, flowSilence)
	client := dialUDP(t, l.addr)
	if _, err := client.Write([]byte("refused")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); l.count() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	l.mu.Lock()
	l.mode = holding
	l.mu.Unlock()
	key := flowKey{local: netip.MustParseAddrPort(l.addr), remote: netip.MustParseAddrPort("127.0.0.1:9")}
	if fl := l.find(t.Context(), key); fl != nil {
		t.Error("a flow while the agent holds")
	}
}

func TestFlowQueueIsBounded(t *testing.T) {
	fl := newFlow(flowKey{})
	for i := range flowQueue + 10 {
		fl.arrive([]byte{byte(i)})
	}
	n := 0
	for len(fl.queue) > 0 {
		p, err := fl.ReadDatagram()
		if err != nil || p[0] != byte(n) {
			t.Fatalf("datagram %d: %v, %v", n, p, err)
		}
		n++
	}
	if n != flowQueue {
		t.Errorf("%d kept, want the first %d", n, flowQueue)
	}
	_ = fl.Close()
	if _, err := fl.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestLongestSilentFlowMakesRoom(t *testing.T) {
	d := &fakeTunnel{taken: make(chan *flow, 4)}
	l := newFlowLab(t, d, flowSilence)
	key := func(port uint16) flowKey {
		return flowKey{remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}
	}
	a, b := l.find(t.Context(), key(1)), l.find(t.Context(), key(2))
	b.moved.Store(1) // long ago
	l.flows.mu.Lock()
	l.evictLocked()
	l.flows.mu.Unlock()
	<-b.closed
	if l.find(t.Context(), key(1)) != a {
		t.Error("the other one is gone")
	}
	_ = a.Close()
	l.wait()
}

// On all addresses: the answer comes from the one that was asked, and a port that is taken is told.
func TestBindUDPAll(t *testing.T) {
	t.Parallel()
	probe, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(probe.LocalAddr().(*net.UDPAddr).Port)
	if _, err := bindUDPAll(t.Context(), port); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: %v", err)
	}
	_ = probe.Close()
	conns, err := bindUDPAll(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeTunnel{taken: make(chan *flow, 4)}
	l := newFlowLab(t, d, flowSilence)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, c := range conns {
		s, err := newFlowSocket(c)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { l.receive(ctx, s) })
	}
	asked := []string{"127.0.0.5"}
	if len(conns) > 1 {
		asked = append(asked, "::1")
	}
	for _, ip := range asked {
		to := netip.AddrPortFrom(netip.MustParseAddr(ip), port)
		client, err := net.Dial("udp", to.String()) // takes answers from there only
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write([]byte("q")); err != nil {
			t.Fatal(err)
		}
		fl := <-d.taken
		if fl.LocalAddr().String() != to.String() || fl.RemoteAddr().String() != client.LocalAddr().String() {
			t.Errorf("flow from %s to %s, want to %s", fl.RemoteAddr(), fl.LocalAddr(), to)
		}
		if _, err := fl.Write([]byte("a")); err != nil {
			t.Error(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := client.Read(make([]byte, 8)); err != nil {
			t.Errorf("answer from %s: %v", ip, err)
		}
		_ = client.Close()
	}
	cancel()
	for _, c := range conns {
		_ = c.Close()
	}
	wg.Wait()
}
