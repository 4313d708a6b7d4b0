package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// makerHere makes sockets in the test's own namespace.
type makerHere struct{}

func (makerHere) Listen(network string, addr netip.AddrPort) (*os.File, error) {
	if strings.HasPrefix(network, "udp") {
		pc, err := net.ListenPacket(network, addr.String())
		if err != nil {
			return nil, err
		}
		defer func() { _ = pc.Close() }()
		return pc.(*net.UDPConn).File()
	}
	lis, err := net.Listen(network, addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = lis.Close() }()
	return lis.(*net.TCPListener).File()
}

func (makerHere) Dial(network string, addr netip.AddrPort) (*os.File, error) {
	c, err := net.Dial(network, addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.(interface{ File() (*os.File, error) }).File()
}

// neighbourLab is neighbours whose pod is the test: what they dial arrives here.
type neighbourLab struct {
	*neighbours
	asked  chan string
	arrive chan net.Conn // the pod's end of each connection
	warned chan string
}

func newNeighbourLab(t *testing.T) *neighbourLab {
	t.Helper()
	l := &neighbourLab{asked: make(chan string, 16), arrive: make(chan net.Conn, 16), warned: make(chan string, 16)}
	link := &agentLink{log: slog.New(slog.DiscardHandler)}
	link.cfg.Warn = func(format string, _ ...any) { l.warned <- format }
	l.neighbours = newNeighbours(makerHere{}, link)
	l.dial = func(_ context.Context, network, address string) (net.Conn, error) {
		l.asked <- network + " " + address
		near, far := tcpPair(t)
		if network == "udp" {
			near, far = net.Pipe()
		}
		t.Cleanup(func() { _ = far.Close() })
		l.arrive <- far
		return near, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.followLoop(ctx)
	}()
	<-l.begun
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return l
}

func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	a, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// freePort is an address on which nothing listens, for either protocol.
func freePort(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	lis, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	return netip.MustParseAddrPort(lis.Addr().String())
}

// dialUntil dials until somebody listens.
func dialUntil(t *testing.T, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	for {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			return c.(*net.TCPConn)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestNeighboursAreWhereTheyAreInThePod(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			l := newNeighbourLab(t)
			addr := freePort(t, ip)
			l.tell(tunnel.PodListening{TCP: []netip.AddrPort{addr}})
			c := dialUntil(t, addr)
			far := <-l.arrive
			if got := <-l.asked; got != "tcp "+addr.String() {
				t.Errorf("dialled %s", got)
			}
			if _, err := io.WriteString(c, "question"); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(far); err != nil || string(b) != "question" {
				t.Errorf("the container read %q, %v", b, err)
			}
			if _, err := io.WriteString(far, "answer"); err != nil {
				t.Fatal(err)
			}
			_ = far.Close()
			if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
				t.Errorf("the process read %q, %v", b, err)
			}

			another := dialUntil(t, addr)
			<-l.arrive
			l.tell(tunnel.PodListening{}) // the container has ended
			if _, err := another.Read(make([]byte, 1)); err == nil {
				t.Error("a connection to a container that has ended")
			}
			if c, err := net.Dial("tcp", addr.String()); err == nil {
				_ = c.Close()
				t.Error("its port is still here")
			}
		})
	}
}

// closing is a connection that tells when it is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c closing) Close() error {
	c.closed()
	return c.Conn.Close()
}

// TestNeighboursPortGoesFirst: whoever is cut off because a container has ended, and tries again, is refused; it does not
// reach a port that is about to go.
func TestNeighboursPortGoesFirst(t *testing.T) {
	l := newNeighbourLab(t)
	var late atomic.Int32
	l.dial = func(_ context.Context, _, address string) (net.Conn, error) {
		near, far := tcpPair(t)
		t.Cleanup(func() { _ = far.Close() })
		l.arrive <- far
		return closing{near, func() {
			if c, err := net.Dial("tcp", address); err == nil {
				late.Add(1)
				_ = c.Close()
			}
		}}, nil
	}
	for range 20 { // otherwise a wrong order would show only now and then
		addr := freePort(t, "127.0.0.1")
		l.tell(tunnel.PodListening{TCP: []netip.AddrPort{addr}})
		for range 5 {
			dialUntil(t, addr)
			<-l.arrive
		}
		for range 2 { // when the loop takes the second it has done the first
			l.tell(tunnel.PodListening{}) // the container has ended
			for len(l.told) > 0 {
				runtime.Gosched()
			}
		}
	}
	if n := late.Load(); n > 0 {
		t.Errorf("%d connections ended while the port was still here", n)
	}
}

func TestNeighboursTakeDatagrams(t *testing.T) {
	l := newNeighbourLab(t)
	addr := freePort(t, "127.0.0.1")
	l.follow(t.Context(), tunnel.PodListening{UDP: []netip.AddrPort{addr}})
	for _, text := range []string{"one", "two"} {
		c, err := net.Dial("udp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		far := <-l.arrive
		if got := <-l.asked; got != "udp "+addr.String() {
			t.Errorf("dialled %s", got)
		}
		buf := make([]byte, 16)
		if n, err := far.Read(buf); err != nil || string(buf[:n]) != text {
			t.Errorf("the container read %q, %v", buf[:n], err)
		}
		if _, err := io.WriteString(far, text+"!"); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != text+"!" {
			t.Errorf("the process read %q, %v", buf[:n], err)
		}
	}
}

// TestPortsOfItsOwn: where the process listens itself, that is said once, and the rest goes on.
func TestPortsOfItsOwn(t *testing.T) {
	l := newNeighbourLab(t)
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	free := freePort(t, "127.0.0.1")
	e := tunnel.PodListening{TCP: []netip.AddrPort{netip.MustParseAddrPort(own.Addr().String()), free}}
	l.tell(e)
	if text := <-l.warned; !strings.Contains(text, "itself") {
		t.Errorf("warned %q", text)
	}
	dialUntil(t, free)
	l.tell(e)
	l.tell(tunnel.PodListening{TCP: []netip.AddrPort{freePort(t, "127.0.0.1")}})
	for {
		c, err := net.Dial("tcp", free.String())
		if err != nil {
			break // the last word has been followed, and the one before it
		}
		_ = c.Close()
	}
	if len(l.warned) > 0 {
		t.Errorf("warned again: %q", <-l.warned)
	}
}

func TestPlaces(t *testing.T) {
	addrs := func(texts ...string) (all []netip.AddrPort) {
		for _, s := range texts {
			all = append(all, netip.MustParseAddrPort(s))
		}
		return all
	}
	for _, c := range []struct {
		name string
		in   []netip.AddrPort
		want []string
	}{
		{"loopback", addrs("127.0.0.1:80", "[::1]:80"), []string{"tcp4 127.0.0.1:80", "tcp6 [::1]:80"}},
		{"the pod's address", addrs("10.42.0.7:80"), []string{"tcp4 10.42.0.7:80"}},
		{"all of IPv4", addrs("0.0.0.0:80"), []string{"tcp4 0.0.0.0:80"}},
		{"both families", addrs("[::]:80"), []string{"tcp [::]:80"}},
		{"each family by itself", addrs("0.0.0.0:80", "[::]:80"), []string{"tcp4 0.0.0.0:80", "tcp6 [::]:80"}},
		{"twice", addrs("0.0.0.0:80", "0.0.0.0:80"), []string{"tcp4 0.0.0.0:80"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range places("tcp", c.in) {
				got = append(got, p.network+" "+p.addr.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSentTo(t *testing.T) {
	for _, c := range []struct{ at, from, want string }{
		{"127.0.0.1:53", "127.0.0.1:4000", "127.0.0.1:53"},
		{"0.0.0.0:53", "127.0.0.1:4000", "127.0.0.1:53"},
		{"0.0.0.0:53", "10.42.0.7:4000", "10.42.0.7:53"},
		{"[::]:53", "[::ffff:127.0.0.1]:4000", "127.0.0.1:53"},
		{"[::]:53", "[::1]:4000", "[::1]:53"},
	} {
		p := place{"udp", netip.MustParseAddrPort(c.at)}
		if got := p.sentTo(netip.MustParseAddrPort(c.from)).String(); got != c.want {
			t.Errorf("from %s to what is at %s: %s, want %s", c.from, c.at, got, c.want)
		}
	}
}

// TestWantedPortsAreThereWhateverListens: before the pod's other containers listen, and where they do there is one
// socket, not two.
func TestWantedPortsAreThereWhateverListens(t *testing.T) {
	l := newNeighbourLab(t)
	addr := freePort(t, "127.0.0.1")
	l.wanted = []kube.Port{{Number: int32(addr.Port())}, {Number: int32(addr.Port()), UDP: true}}
	for _, told := range []tunnel.PodListening{
		{}, // nothing
		{TCP: []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())}},
		{TCP: []netip.AddrPort{addr}, UDP: []netip.AddrPort{addr}},
		{},
	} {
		l.follow(t.Context(), told)
		c := dialUntil(t, addr)
		<-l.arrive
		if got := <-l.asked; got != "tcp "+addr.String() {
			t.Errorf("dialled %s", got)
		}
		_ = c.Close()
	}
	if len(l.warned) > 0 {
		t.Errorf("warned: %q", <-l.warned)
	}
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	<-l.arrive
	if got := <-l.asked; got != "udp "+addr.String() {
		t.Errorf("dialled %s", got)
	}
}
