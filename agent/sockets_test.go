package agent

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// freeLoopback is a port that is free on the loopback addresses, for TCP and UDP.
func freeLoopback(t *testing.T) uint16 {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		_ = l.Close()
		tcp, tcpErr := bindLoopback(t.Context(), port)
		udp, udpErr := bindLoopbackUDP(t.Context(), port)
		for _, l := range tcp {
			_ = l.Close()
		}
		for _, c := range udp {
			_ = c.Close()
		}
		if tcpErr == nil && udpErr == nil {
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// TestLoopbackPorts: the pod's other containers reach the laptop at the loopback addresses alone, and
// once the original pods have taken over nobody is there.
func TestLoopbackPorts(t *testing.T) {
	t.Parallel()
	port := freeLoopback(t)
	p := startPod(t, func(c *Config) {
		c.Loopback, c.LoopbackUDP = []uint16{port}, []uint16{port}
		withUDP(c)
	})
	c := p.connect(t)
	seen := make(chan netip.AddrPort, 64)
	acceptAll(t, c, func(in *tunnel.Inbound) {
		select {
		case seen <- in.Local:
		default: // a datagram was sent again and again
		}
		if in.Network == "udp" {
			echoFlow(t, "re: ")(in)
			return
		}
		echo(t)(in)
	})
	for _, addr := range loopbackAddrs(port) {
		if l, err := net.Listen("tcp6", "[::1]:0"); err != nil && addr.Addr().Is6() {
			continue // a machine without IPv6
		} else if err == nil {
			_ = l.Close()
		}
		if answer, err := ask(t, addr.String()); answer != "hello" || err != nil {
			t.Errorf("at %s: got %q, %v", addr, answer, err)
		}
		if got := <-seen; got != addr {
			t.Errorf("the laptop is told %s, want %s", got, addr)
		}
	}
	four := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	udp := dialUDP(t, four)
	insist(t, udp, "hello", "re: hello")
	if c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.7", strconv.Itoa(int(port)))); err == nil {
		_ = c.Close()
		t.Error("the port is open at another address, too")
	}

	if err := c.HandOver(t.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.1")}); err != nil {
		t.Fatal(err)
	}
	if answer, err := ask(t, four); err == nil {
		t.Errorf("after the hand-over: got %q, want a reset", answer)
	}
	_ = udp.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = udp.Write([]byte("again"))
	for buf := make([]byte, 16); ; {
		n, err := udp.Read(buf)
		if err != nil {
			break
		}
		if got := string(buf[:n]); got != "re: hello" { // asked before
			t.Errorf("after the hand-over: %q by UDP", got)
		}
	}
}

// TestLoopbackPortTaken: another container has it already.
func TestLoopbackPortTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	p := startPod(t, func(c *Config) { c.Loopback = []uint16{port} })
	view, err := p.connect(t).PodView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := view.GetPorts()
	if len(states) != 2 || states[0].GetPort() != uint32(port) || !strings.Contains(states[0].GetError(), "in use") {
		t.Errorf("got %v, want that port %d is in use", states, port)
	}
}
