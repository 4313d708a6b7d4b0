package runner

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/relay"
)

// TestInboundToLoopback6: Linux takes no packet for ::1 from a device, so the client cannot be shown.
func TestInboundToLoopback6(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "[::1]:8080"))
	p.line()
	for _, src := range []string{"192.0.2.1:4000", "192.0.2.2:4000"} {
		if got, err := l.hello(src, "10.42.0.7:8080"); err != nil || !strings.HasPrefix(got, "[::1]:") {
			t.Errorf("seen as %q, %v", got, err)
		}
	}
	if _, err := l.hello("192.0.2.1:4000", "10.42.0.7:7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	l = newLab(t, nil)
	l.start(l.spec("serveudp", "[::1]:8080")).line()
	if got, err := l.asked("192.0.2.1:4000", "10.42.0.7:8080", "hello"); err != nil || !strings.HasPrefix(got, "[::1]:") || !strings.HasSuffix(got, " hello") {
		t.Errorf("answered %q, %v", got, err)
	}
}

// listenInside is a socket in the sandbox.
func (l *lab) listenInside(network, addr string) (*os.File, error) {
	<-l.taken
	return l.box.Listen(network, netip.MustParseAddrPort(addr))
}

// TestSocketsOfAStoppedSandbox: Ctrl-Z stops the sandbox's first process with the rest of its group. Who wants a socket meanwhile
// hears so at once, and gets one when it goes on.
func TestSocketsOfAStoppedSandbox(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "[::1]:8080"))
	p.line()
	first := p.cmd.Process
	if err := first.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Signal(syscall.SIGCONT) }()
	eventually(t, "it is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", first.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, state, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(state, "T")
	})
	if _, err := l.listenInside("tcp4", "127.0.0.1:5432"); !errors.Is(err, sandbox.ErrStopped) {
		t.Errorf("a socket is asked for: %v", err)
	}
	if _, err := l.hello("192.0.2.1:4000", "10.42.0.7:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("what listens on ::1 is called: %v", err)
	}
	if err := first.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool {
		got, err := l.hello("192.0.2.1:4000", "10.42.0.7:8080")
		return err == nil && strings.HasPrefix(got, "[::1]:")
	})
}

// TestSocketsMadeInside: what listens in the sandbox for the daemon is reached by the process.
func TestSocketsMadeInside(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "127.0.0.1:9090"))
	p.line()
	for _, c := range []struct {
		network, addr string
		want          error
	}{
		{"tcp4", "127.0.0.1:5432", nil},
		{"tcp6", "[::1]:5432", nil},
		{"tcp", "[::]:6379", nil},
		{"tcp4", "10.42.0.7:80", nil},
		{"udp4", "127.0.0.1:53", nil},
		{"udp6", "[::1]:53", nil},
		{"udp4", "127.0.0.1:53", syscall.EADDRINUSE},
		{"tcp4", "127.0.0.1:9090", syscall.EADDRINUSE},
		{"tcp4", "192.0.2.1:80", syscall.EADDRNOTAVAIL},
		{"tcp4", "127.0.0.1:5433", nil}, // it goes on after errors
	} {
		f, err := l.listenInside(c.network, c.addr)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s %s: %v, want %v", c.network, c.addr, err, c.want)
		}
		if f != nil {
			defer func() { _ = f.Close() }()
		}
	}
	if _, err := l.box.Dial("tcp6", netip.MustParseAddrPort("[::1]:7")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
}

// TestSidecarsListener: the process reaches what another container listens on, at 127.0.0.1.
func TestSidecarsListener(t *testing.T) {
	echo := echoServer(t)
	// Before the command starts: it may ask for its sidecar at once.
	made := make(chan net.Listener, 1)
	l := newLab(t, nil)
	l.mu.Lock()
	l.before = func() {
		f, err := l.box.Listen("tcp4", netip.MustParseAddrPort("127.0.0.1:5432"))
		if err != nil {
			t.Error(err)
			close(made)
			return
		}
		defer func() { _ = f.Close() }()
		lis, err := net.FileListener(f)
		if err != nil {
			t.Error(err)
		}
		made <- lis
	}
	l.mu.Unlock()
	p := l.start(l.spec("dial", "127.0.0.1:5432", "127.0.0.1:5433"))
	lis := <-made
	if lis == nil {
		return
	}
	defer func() { _ = lis.Close() }()
	in, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var d net.Dialer
	out, err := d.DialContext(t.Context(), "tcp", echo)
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Relay(in, out); err != nil {
		t.Error(err)
	}
	if text, _ := p.output(); strings.Join(strings.Fields(text), " ") != "ping ECONNREFUSED" {
		t.Errorf("the process saw %q", text)
	}
}

// TestSocketsEndWithTheSandbox: who asks for one later is told, and hangs not.
func TestSocketsEndWithTheSandbox(t *testing.T) {
	l := newLab(t, nil)
	p := l.start(l.spec("serve", "127.0.0.1:9090"))
	p.line()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.output()
	for range 2 {
		if _, err := l.listenInside("tcp4", "127.0.0.1:5432"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}
