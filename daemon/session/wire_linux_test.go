package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/ping"
	"github.com/teleswap/teleswap/proxy/procnet"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// echoes is a server that echoes: a datagram, or a line.
func echoes(t *testing.T) (tcp, udp netip.AddrPort) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { ended <- struct{}{} }()
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		_, _ = lis.Close(), pc.Close()
		<-ended
		<-ended
	})
	return netip.MustParseAddrPort(lis.Addr().String()), netip.MustParseAddrPort(pc.LocalAddr().String())
}

// TestDatagramsAndPingsGoTheirWay: by the laptop or by the pod, and each says how it failed.
func TestDatagramsAndPingsGoTheirWay(t *testing.T) {
	_, echo := echoes(t)
	closed := freePort(t, "127.0.0.1")
	a := newAgentLab(t, func(cfg *tunnel.ServerConfig) {
		cfg.Ping = func(_ context.Context, to netip.Addr, _ []byte) error {
			switch to.String() {
			case "10.96.0.1":
				return nil
			case "10.96.0.2":
				return syscall.EHOSTUNREACH
			}
			return tunnel.ErrPingUnavailable
		}
	})
	link, _ := a.dial()
	l := link.(*agentLink)
	cluster := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.96.0.0/16")}
	for name, w := range map[string]*wiring{"pod": {link: l, routes: routes{Cluster: cluster}}, "laptop": {link: l}} {
		t.Run(name, func(t *testing.T) {
			c, err := w.dialUDP(t.Context(), netip.AddrPort{}, echo)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if _, byLaptop := c.(*net.UDPConn); byLaptop != (name == "laptop") {
				t.Errorf("dialled a %T", c)
			}
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
				t.Errorf("read %q, %v", buf[:n], err)
			}
			if c, err = w.dialUDP(t.Context(), netip.AddrPort{}, closed); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("where nobody takes datagrams: %v", err)
			}
		})
	}
	w := &wiring{link: l, routes: routes{Cluster: cluster}}
	for dst, want := range map[string]error{"10.96.0.1": nil, "10.96.0.2": syscall.EHOSTUNREACH, "10.96.0.3": syscall.EACCES} {
		if err := w.ping(t.Context(), netip.MustParseAddr(dst), []byte("x")); !errors.Is(err, want) {
			t.Errorf("ping %s: %v, want %v", dst, err, want)
		}
	}
	w = &wiring{link: l}
	if err := w.ping(t.Context(), netip.MustParseAddr("127.0.0.1"), []byte("x")); err != nil && !errors.Is(err, ping.ErrUnavailable) {
		t.Errorf("ping by the laptop: %v", err)
	}
}

// boxHere is a sandbox that is none: the test's own namespace, and a device that nobody is behind.
type boxHere struct {
	makerHere
	fakeBox
	tun *os.File
}

func (b *boxHere) TakeTUN() *os.File                    { return b.tun }
func (b *boxHere) Listening() ([]procnet.Socket, error) { return nil, nil }
func (b *boxHere) Listen(network string, addr netip.AddrPort) (*os.File, error) {
	return b.makerHere.Listen(network, addr)
}

func (b *boxHere) Dial(network string, addr netip.AddrPort) (*os.File, error) {
	return b.makerHere.Dial(network, addr)
}

// TestSidecarsAreThereWhenTheProcessStarts: what the agent has told before, and what it tells later.
func TestSidecarsAreThereWhenTheProcessStarts(t *testing.T) {
	echo, _ := echoes(t)
	a := newAgentLab(t, func(cfg *tunnel.ServerConfig) {
		cfg.Dial = func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, echo.String())
		}
	})
	link, _ := a.dial()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(pair[1]), "other")
	defer func() { _ = other.Close() }()
	first, second := freePort(t, "127.0.0.1"), freePort(t, "127.0.0.1")
	l := link.(*agentLink)
	a.agent.Announce(tunnel.PodListening{TCP: []netip.AddrPort{first}})
	for told := false; !told && t.Context().Err() == nil; { // it travels
		l.mu.Lock()
		told = l.listening != nil
		l.mu.Unlock()
	}
	view := &tunnel.PodView{PodIps: []string{"10.244.0.9"}, ResolvConf: []byte("nameserver 10.96.0.10\n")}
	if err := l.Attach(t.Context(), &boxHere{tun: os.NewFile(uintptr(pair[0]), "tun")}, view); err != nil {
		t.Fatal(err)
	}
	say := func(c net.Conn) {
		t.Helper()
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "hello\n" {
			t.Errorf("read %q, %v", line, err)
		}
		_ = c.Close()
	}
	c, err := net.Dial("tcp", first.String())
	if err != nil {
		t.Fatalf("the sidecar's port is not there yet: %v", err)
	}
	say(c)
	a.agent.Announce(tunnel.PodListening{TCP: []netip.AddrPort{first, second}})
	say(dialUntil(t, second))
}

// TestHostIsTheLaptop: the address of host.teleswap.internal leads to the laptop's own loopback, and its errors are the
// laptop's.
func TestHostIsTheLaptop(t *testing.T) {
	tcp, udp := echoes(t)
	w := &wiring{routes: routes{Cluster: []netip.Prefix{netip.MustParsePrefix("192.0.0.0/24")}}, host: onLaptop(nil)}
	for network, dial := range map[string]func() (net.Conn, error){
		"tcp": func() (net.Conn, error) {
			return w.dial(t.Context(), someClient, netip.AddrPortFrom(hostAddr, tcp.Port()))
		},
		"udp": func() (net.Conn, error) {
			return w.dialUDP(t.Context(), someClient, netip.AddrPortFrom(hostAddr, udp.Port()))
		},
	} {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
			t.Errorf("%s: read %q, %v", network, buf[:n], err)
		}
		_ = c.Close()
	}
	closed := netip.AddrPortFrom(hostAddr, freePort(t, "127.0.0.1").Port())
	for network, dial := range map[string]func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error){"tcp": w.dial, "udp": w.dialUDP} {
		if _, err := dial(t.Context(), someClient, closed); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s where nothing listens: %v, want connection refused", network, err)
		}
	}
	if err := w.ping(t.Context(), hostAddr, []byte("x")); err != nil && !errors.Is(err, ping.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
}
