package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/netstack"
)

// dialTo dials every address of the sandbox to one of the test's.
func dialTo(addr string) func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

func TestConnectTellsTheTruth(t *testing.T) {
	echo := echoServer(t)
	l := newLab(t, func(c *netstack.Config) {
		c.DialTCP = func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
			if src.Addr() != podIP {
				t.Errorf("dialled from %v", src)
			}
			switch dst.Port() {
			case 80:
				return dialTo(echo)(ctx, src, dst)
			case 81:
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			case 82:
				return nil, syscall.EHOSTUNREACH
			case 83:
				return nil, syscall.ENETUNREACH
			default:
				return nil, errors.New("anything else")
			}
		}
	})
	out, _ := l.start(l.spec("dial", "10.96.0.1:80", "8.8.8.8:80", "10.96.0.1:81", "10.96.0.1:82", "10.96.0.1:83",
		"10.96.0.1:84", "[2001:db8::1]:80")).output()
	want := "ping ping ECONNREFUSED EHOSTUNREACH ENETUNREACH EHOSTUNREACH ENETUNREACH"
	if got := strings.Join(strings.Fields(out), " "); got != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestIPv6(t *testing.T) {
	echo := echoServer(t)
	l := newLab(t, func(c *netstack.Config) {
		c.Addrs = append(c.Addrs, netip.MustParseAddr("fd00::7"))
		c.DialTCP = func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
			if src.Addr() != netip.MustParseAddr("fd00::7") {
				t.Errorf("dialled from %v", src)
			}
			switch dst.Port() {
			case 80:
				return dialTo(echo)(ctx, src, dst)
			case 81:
				return nil, syscall.ECONNREFUSED
			case 82:
				return nil, syscall.EHOSTUNREACH
			case 83:
				return nil, syscall.EACCES
			default:
				return nil, syscall.ENETUNREACH
			}
		}
	})
	spec := l.spec("dial", "[fd01::1]:80", "[fd01::1]:81", "[fd01::1]:82", "[fd01::1]:83", "[fd01::1]:84")
	spec.Addrs = append(spec.Addrs, netip.MustParsePrefix("fd00::7/64"))
	out, _ := l.start(spec).output()
	if got, want := strings.Join(strings.Fields(out), " "), "ping ECONNREFUSED EHOSTUNREACH EACCES ENETUNREACH"; got != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}

	l = newLab(t, func(c *netstack.Config) { c.Addrs = append(c.Addrs, netip.MustParseAddr("fd00::7")) })
	spec.Handoff, spec.Argv = l.handoff, l.spec("serve", "[::]:8080").Argv
	p := l.start(spec)
	p.line()
	l.wantSeen("[fd99::1]:4000", "[fd00::7]:8080", "[fd99::1]:4000")
	l.wantSeen("192.0.2.1:4000", "10.42.0.7:8080", "192.0.2.1:4000")
}

// TestConnectTimesOut: no packet says ETIMEDOUT, so connect() must still wait, until the dialler's patience ends.
func TestConnectTimesOut(t *testing.T) {
	asked := make(chan struct{}, 16)
	l := newLab(t, func(c *netstack.Config) {
		c.DialTCP = func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
			asked <- struct{}{}
			return nil, syscall.ETIMEDOUT
		}
	})
	p := l.start(l.spec("dial", "10.96.0.1:80"))
	<-asked
	<-asked // the kernel has sent its SYN again: connect() waits
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out, _ := p.output(); out != "" {
		t.Errorf("connect() returned: %q", out)
	}
}

// hello dials into the sandbox and returns the client's address that the process saw.
func (l *lab) hello(src, dst string) (string, error) {
	<-l.taken
	c, err := l.stack.DialTCP(l.t.Context(), netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func (l *lab) wantSeen(src, dst, want string) {
	l.t.Helper()
	if got, err := l.hello(src, dst); err != nil || got != want {
		l.t.Errorf("from %s to %s: seen as %q, %v; want %q", src, dst, got, err, want)
	}
}

func TestInboundShowsTheClient(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "0.0.0.0:8080", "0.0.0.0:80", "127.0.0.1:9090"))
	if got := p.line(); got != "listening" {
		t.Fatal(got)
	}
	for _, c := range []struct{ name, src, dst, want string }{
		{"a client", "192.0.2.1:4000", "10.42.0.7:8080", "192.0.2.1:4000"},
		{"the same port again, once closed", "192.0.2.1:4000", "10.42.0.7:8080", "192.0.2.1:4000"},
		{"a port below 1024", "192.0.2.1:4001", "10.42.0.7:80", "192.0.2.1:4001"},
		{"a neighbour in the pod's subnet", "10.42.0.1:4000", "10.42.0.7:8080", "10.42.0.1:4000"},
		{"a public client", "8.8.8.8:443", "10.42.0.7:8080", "8.8.8.8:443"},
		{"a mapped address", "[::ffff:192.0.2.9]:4000", "10.42.0.7:8080", "192.0.2.9:4000"},
		{"what listens on loopback only", "192.0.2.1:4000", "10.42.0.7:9090", "192.0.2.1:4000"},
		{"the pod itself", "10.42.0.7:4000", "10.42.0.7:8080", "192.0.0.8:4000"},
		{"a sidecar", "127.0.0.1:4000", "127.0.0.1:8080", "127.0.0.1:"},
		{"a sidecar to what listens on loopback only", "127.0.0.1:4000", "127.0.0.1:9090", "127.0.0.1:"},
		{"a sidecar by IPv6 to what listens on IPv4 only", "[::1]:4000", "[::1]:9090", "127.0.0.1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := l.hello(c.src, c.dst)
			same := got == c.want || strings.HasSuffix(c.want, ":") && strings.HasPrefix(got, c.want) // any port
			if err != nil || !same {
				t.Errorf("seen as %q, %v; want %q", got, err, c.want)
			}
		})
	}
	if _, err := l.hello("127.0.0.1:4000", "127.0.0.1:7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port, called by a sidecar: %v", err)
	}
	if _, err := l.hello("192.0.2.1:4000", "10.42.0.7:7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	socks, err := sandbox.Listening(p.Pid())
	if err != nil {
		t.Fatal(err)
	}
	heard := map[string]bool{}
	for _, s := range socks {
		if !strings.HasPrefix(s.Network, "tcp") {
			continue
		}
		heard[fmt.Sprint(s.Addr.Port(), s.Addr.Addr().IsLoopback())] = true
	}
	if !heard["8080 false"] || !heard["80 false"] || !heard["9090 true"] || len(heard) != 3 {
		t.Errorf("listening: %v", socks)
	}
}

func TestOneClientPortToTwoOfOurs(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "0.0.0.0:8080", "0.0.0.0:8081"))
	p.line()
	<-l.taken
	src := netip.MustParseAddrPort("192.0.2.1:4000")
	dial := func(dst string) (net.Conn, error) {
		return l.stack.DialTCP(t.Context(), src, netip.MustParseAddrPort(dst))
	}
	first, err := dial("10.42.0.7:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	second, err := dial("10.42.0.7:8081")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	for _, c := range []net.Conn{first, second} {
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "192.0.2.1:4000\n" {
			t.Errorf("%q, %v", line, err)
		}
	}
	// The client has forgotten the first one, or could not begin it again: it takes its place.
	again, err := dial("10.42.0.7:8080")
	if err != nil {
		t.Fatalf("the same two addresses again: %v", err)
	}
	defer func() { _ = again.Close() }()
	if line, err := bufio.NewReader(again).ReadString('\n'); err != nil || line != "192.0.2.1:4000\n" {
		t.Errorf("the same two addresses again: %q, %v", line, err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the connection that was replaced is still read")
	}
}

func TestHalfCloseAndResetInbound(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "0.0.0.0:8080"))
	p.line()
	<-l.taken
	c, err := l.stack.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("10.42.0.7:8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "last words"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "192.0.2.1:4000\nlast words" {
		t.Errorf("%q, %v", b, err)
	}
	c, err = l.stack.DialTCP(t.Context(), netip.MustParseAddrPort("192.0.2.1:4001"), netip.MustParseAddrPort("10.42.0.7:8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Killed with nothing unread: the kernel of the process ends its connection in order, and none hangs.
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read from a process that is gone")
	}
}

func TestThousandConnections(t *testing.T) {
	echo := echoServer(t)
	l := newLab(t, func(c *netstack.Config) { c.DialTCP = dialTo(echo) })
	out, exit := l.start(l.spec("many", "1000", "10.96.0.1:80")).output()
	if exit.Code != 0 {
		t.Errorf("%s %v", out, exit)
	}
}

func TestThousandConnectionsInbound(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "0.0.0.0:8080"))
	p.line()
	<-l.taken
	var opened, done sync.WaitGroup
	hold := make(chan struct{})
	for i := range 1000 {
		opened.Add(1)
		done.Go(func() {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(10000+i))
			c, err := l.stack.DialTCP(t.Context(), src, netip.MustParseAddrPort("10.42.0.7:8080"))
			opened.Done()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			defer func() { _ = c.Close() }()
			<-hold
			if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != src.String()+"\n" {
				t.Errorf("connection %d: %q, %v", i, line, err)
			}
		})
	}
	opened.Wait()
	close(hold)
	done.Wait()
}

func TestNames(t *testing.T) {
	answer := func(_ context.Context, raw []byte) ([]byte, error) {
		var q, a dns.Msg
		if err := q.Unpack(raw); err != nil {
			return nil, err
		}
		a.SetReply(&q)
		name := q.Question[0].Name
		switch {
		case strings.HasPrefix(name, "nosuch."):
			a.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			n := 1
			if strings.HasPrefix(name, "many.") {
				n = 200 // more than a datagram's 512 or 1232 bytes: by TCP then
			}
			for i := range n {
				a.Answer = append(a.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
					A:   net.IPv4(10, 96, 1, byte(i)),
				})
			}
		}
		return a.Pack()
	}
	for _, c := range []struct{ name, want string }{
		{"service-b.default.svc.cluster.local", "10.96.1.0"},
		{"nosuch.default.svc.cluster.local", "no such host"},
		{"many.default.svc.cluster.local", "10.96.1.199"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, func(cfg *netstack.Config) {
				cfg.DNS, cfg.Nameservers = answer, []netip.Addr{netip.MustParseAddr("10.96.0.10")}
			})
			out, _ := l.start(l.spec("lookup", c.name)).output()
			if !strings.Contains(out, c.want) {
				t.Errorf("got %q, want %q in it", out, c.want)
			}
		})
	}
}
