package runner

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/netstack"
)

// udpEcho echoes datagrams on loopback, which the lab's dialer reaches.
func udpEcho(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() {
		_ = pc.Close()
		wg.Wait()
	})
	return pc.LocalAddr().String()
}

// closedUDP is an address where nobody takes datagrams.
func closedUDP(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	return pc.LocalAddr().String()
}

// TestDatagramsTellTheTruth: a refusal reaches the process as the kernel would tell it.
func TestDatagramsTellTheTruth(t *testing.T) {
	echo, closed := udpEcho(t), closedUDP(t)
	l := newLab(t, func(c *netstack.Config) {
		c.Addrs = append(c.Addrs, netip.MustParseAddr("fd00::7"))
		c.DialUDP = func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
			if src.Addr() != podIP && src.Addr() != netip.MustParseAddr("fd00::7") {
				t.Errorf("dialled from %v", src)
			}
			var d net.Dialer
			switch dst.Port() {
			case 514:
				return d.DialContext(ctx, "udp", echo)
			case 515:
				return d.DialContext(ctx, "udp", closed)
			default:
				return nil, syscall.ECONNREFUSED
			}
		}
	})
	spec := l.spec("udp", "10.96.0.1:514", "10.96.0.1:515", "10.96.0.1:516", "[fd01::1]:514", "[fd01::1]:515")
	spec.Addrs = append(spec.Addrs, netip.MustParsePrefix("fd00::7/64"))
	out, _ := l.start(spec).output()
	if got, want := strings.Join(strings.Fields(out), " "), "ping ECONNREFUSED ECONNREFUSED ping ECONNREFUSED"; got != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestWithoutDatagramsTheyAreRefusedAtOnce(t *testing.T) {
	l := newLab(t, nil)
	out, _ := l.start(l.spec("udp", "10.96.0.1:123")).output()
	if out != "ECONNREFUSED\n" {
		t.Errorf("got %q", out)
	}
}

// asked sends a datagram into the sandbox and returns what the process answers.
func (l *lab) asked(src, dst, text string) (string, error) {
	<-l.taken
	c, err := l.stack.DialUDP(l.t.Context(), netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func TestInboundDatagramsShowTheClient(t *testing.T) {
	l := newLab(t, func(c *netstack.Config) { c.Addrs = append(c.Addrs, netip.MustParseAddr("fd00::7")) })
	spec := l.spec("serveudp", "0.0.0.0:8080", "0.0.0.0:514", "127.0.0.1:9090", "10.42.0.7:7070", "[::]:6060")
	spec.Addrs = append(spec.Addrs, netip.MustParsePrefix("fd00::7/64"))
	p := l.start(spec)
	if got := p.line(); got != "listening" {
		t.Fatal(got)
	}
	long := strings.Repeat("x", 60000)
	for _, c := range []struct{ name, src, dst, text, want string }{
		{"a client", "192.0.2.1:4000", "10.42.0.7:8080", "hello", "192.0.2.1:4000 hello"},
		{"the same port again", "192.0.2.1:4000", "10.42.0.7:8080", "", "192.0.2.1:4000 "},
		{"a long datagram", "192.0.2.1:4000", "10.42.0.7:8080", long, "192.0.2.1:4000 " + long},
		{"a port below 1024", "192.0.2.1:4000", "10.42.0.7:514", "a", "192.0.2.1:4000 a"},
		{"what waits at the pod's address", "192.0.2.1:4000", "10.42.0.7:7070", "a", "192.0.2.1:4000 a"},
		{"what waits on loopback only", "192.0.2.1:4000", "10.42.0.7:9090", "a", "192.0.2.1:4000 a"},
		{"IPv4 to what waits for both", "192.0.2.1:4000", "10.42.0.7:6060", "a", "192.0.2.1:4000 a"},
		{"IPv6", "[fd99::1]:4000", "[fd00::7]:6060", "a", "[fd99::1]:4000 a"},
		{"the pod itself", "10.42.0.7:4000", "10.42.0.7:8080", "a", "192.0.0.8:4000 a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := l.asked(c.src, c.dst, c.text); err != nil || got != c.want {
				t.Errorf("answered %.40q, %v; want %.40q", got, err, c.want)
			}
		})
	}
	for _, dst := range []string{"127.0.0.1:8080", "127.0.0.1:9090", "[::1]:8080", "[::1]:6060"} { // sidecars'
		got, err := l.asked(strings.Replace(dst, "80", "40", 1), dst, "hello")
		if from, text, _ := strings.Cut(got, " "); err != nil || text != "hello" || !netip.MustParseAddrPort(from).Addr().IsLoopback() {
			t.Errorf("at %s: answered %q, %v", dst, got, err)
		}
	}
	for range 10 { // the kernel of the sandbox does not limit how often it says so
		if _, err := l.asked("192.0.2.1:4000", "10.42.0.7:7", "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("a closed port: %v", err)
		}
	}
}

func pings(t *testing.T) func(*netstack.Config) {
	return func(c *netstack.Config) {
		c.Addrs = append(c.Addrs, netip.MustParseAddr("fd00::7"))
		c.Ping = func(_ context.Context, dst netip.Addr, payload []byte) error {
			if len(payload) == 0 {
				t.Error("pinged without the process's payload")
			}
			switch dst.String() {
			case "10.96.0.2":
				return syscall.EHOSTUNREACH
			case "10.96.0.3":
				return syscall.ENETUNREACH
			}
			return nil
		}
	}
}

func TestPing(t *testing.T) {
	l := newLab(t, pings(t))
	spec := l.spec("ping", "10.96.0.1", "fd01::1", "10.42.0.7", "127.0.0.1")
	spec.Addrs = append(spec.Addrs, netip.MustParsePrefix("fd00::7/64"))
	out, _ := l.start(spec).output()
	if got, want := strings.Join(strings.Fields(out), " "), "reply reply reply reply"; got != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestPingProgram: the system's own ping works in the sandbox, set-uid or not.
func TestPingProgram(t *testing.T) {
	program, err := exec.LookPath("ping")
	if err != nil {
		t.Skip("SKIPPED: no ping on this machine (TestPing does without): ", err)
	}
	for _, c := range []struct {
		dst  string
		want string
		code int
	}{
		{"10.96.0.1", "1 received", 0},
		{"10.96.0.2", "Destination Host Unreachable", 1},
		{"10.96.0.3", "Destination Net Unreachable", 1},
	} {
		t.Run(c.want, func(t *testing.T) {
			l := newLab(t, pings(t))
			spec := l.spec()
			spec.Argv = []string{program, "-n", "-c", "1", "-W", "10", c.dst}
			out, exit := l.start(spec).output()
			if !strings.Contains(out, c.want) || exit.Code != c.code {
				t.Errorf("%d: %s", exit.Code, out)
			}
		})
	}
}
