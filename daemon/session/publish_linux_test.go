package session

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/restart"
)

// publishing is a publisher of one port, whose sandbox is the test's own namespace.
func publishing(t *testing.T, w Publish) *publisher {
	t.Helper()
	return publishingBy(t, nil, w)
}

// publishingBy is publishing for a process that may be restarted.
func publishingBy(t *testing.T, gate *restart.Gate, w Publish) *publisher {
	t.Helper()
	p, err := newPublisher(t.Context(), []Publish{w}, gate, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func loopbackPort(port uint16) netip.AddrPort { return netip.AddrPortFrom(loopback4, port) }

// isReset tells that a connection that was accepted came to nothing.
func isReset(addr netip.AddrPort) bool {
	c, err := net.Dial("tcp", addr.String())
	if err == nil {
		defer func() { _ = c.Close() }()
		_, err = c.Read(make([]byte, 1))
	}
	return errors.Is(err, syscall.ECONNRESET)
}

func TestPublishTCP(t *testing.T) {
	echo, _ := echoes(t)
	p := publishing(t, Publish{At: loopbackPort(0), Inside: echo.Port()})
	at := p.all[0].At
	if at.Port() == 0 {
		t.Fatal("the port that was chosen is not told")
	}
	if !isReset(at) {
		t.Error("a connection that came before the sandbox was not reset")
	}
	p.attach(makerHere{}, nil)
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	open, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	p.close()
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the session")
	}
	if _, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port is still held: %v", err)
	}
	p.open = nil // closed above
}

// TestPublishHoldsForRestart: who comes while the process is restarted reaches the next one.
func TestPublishHoldsForRestart(t *testing.T) {
	echo, _ := echoes(t)
	gate := restart.New()
	p := publishingBy(t, gate, Publish{At: loopbackPort(0), Inside: echo.Port()})
	p.attach(makerHere{}, nil)
	gate.Hold(t.Context())
	c, err := net.Dial("tcp", p.all[0].At.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("served while it was to be held: %q, %v", buf[:n], err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	gate.Started()
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestPublishUDP(t *testing.T) {
	_, echo := echoes(t)
	p := publishing(t, Publish{At: loopbackPort(0), Inside: echo.Port(), UDP: true})
	p.attach(makerHere{}, nil)
	for _, text := range []string{"one", "two"} {
		c, err := net.Dial("udp", p.all[0].At.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		buf := make([]byte, 16)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != text {
			t.Errorf("read %q, %v", buf[:n], err)
		}
	}
}

// TestPublishWhatListensElsewhere: on [::1], or on the pod's address alone.
func TestPublishWhatListensElsewhere(t *testing.T) {
	for _, ip := range []string{"::1", "127.0.0.9"} {
		t.Run(ip, func(t *testing.T) {
			lis, port := listenOn(t, ip)
			p := publishing(t, Publish{At: loopbackPort(0), Inside: port})
			p.attach(makerHere{}, []netip.Addr{netip.MustParseAddr("127.0.0.9")})
			c, err := net.Dial("tcp", p.all[0].At.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			far, err := lis.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = far.Close()
		})
	}
}

func TestPublishWhereNobodyListens(t *testing.T) {
	p := publishing(t, Publish{At: loopbackPort(0), Inside: freePort(t, "127.0.0.1").Port()})
	p.attach(makerHere{}, nil)
	if !isReset(p.all[0].At) {
		t.Error("a connection to a port where nobody listens was not reset")
	}
}

func TestPublishError(t *testing.T) {
	for _, c := range []struct {
		name    string
		session string
		err     error
		parts   []string
	}{
		{"another program's", "", syscall.EADDRINUSE, []string{"127.0.0.1:80 is taken on this machine", "--publish 127.0.0.1:0:90 takes any"}},
		{"another session's", "abc234", syscall.EADDRINUSE, []string{"session abc234 has published 127.0.0.1:80", "teleswap leave abc234"}},
		{"root's", "", syscall.EACCES, []string{"port 80 of this machine is root's"}},
		{"nobody's", "", syscall.EADDRNOTAVAIL, []string{"127.0.0.1 is no address of this machine"}},
		{"for another reason", "", syscall.EMFILE, []string{"--publish 127.0.0.1:80:90: too many open files"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := &PublishError{Publish: Publish{At: loopbackPort(80), Inside: 90}, Session: c.session, Err: c.err}
			for _, part := range c.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q misses %q", err, part)
				}
			}
			if !errors.Is(err, c.err) {
				t.Errorf("%v is not %v", err, c.err)
			}
		})
	}
}

// TestPublishTaken: nothing is changed where a port of the laptop is taken, and what was taken is given back.
func TestPublishTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	l := newLab(t)
	p := l.process(0)
	free := freePort(t, "127.0.0.1")
	s, _, err := p.Swap(t.Context(), Request{
		Ref:     kube.Ref{Name: "web"},
		Publish: []Publish{{At: free, Inside: 80}, {At: netip.MustParseAddrPort(taken.Addr().String()), Inside: 81}},
	})
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	out := s.Outcome()
	var refusal *PublishError
	if !errors.As(out.Err, &refusal) || !out.Unchanged || refusal.Publish.Inside != 81 {
		t.Errorf("got %+v", out)
	}
	l.world.untouched(t)
	lis, err := net.Listen("tcp", free.String())
	if err != nil {
		t.Fatalf("the other port is still held: %v", err)
	}
	_ = lis.Close()
}

// TestPublishOfTwoSessions: the second is told which session has the port; once that has ended it is free.
func TestPublishOfTwoSessions(t *testing.T) {
	p := newLab(t).process(0)
	at := freePort(t, "127.0.0.1")
	begin := func() (*Session, *collector) {
		s, events, err := p.Swap(t.Context(), Request{Ref: kube.Ref{Name: "web"}, Publish: []Publish{{At: at, Inside: 8080}}})
		if err != nil {
			t.Fatal(err)
		}
		c := &collector{session: s, active: make(chan struct{}), over: make(chan struct{})}
		go c.collect(events)
		return s, c
	}
	first, c := begin()
	<-c.active
	if got := first.Status().Published; len(got) != 1 || got[0].At != at {
		t.Errorf("status says %v", got)
	}
	second, c2 := begin()
	<-c2.over
	var refusal *PublishError
	if err := second.Outcome().Err; !errors.As(err, &refusal) || refusal.Session != first.ID() {
		t.Errorf("got %v, want that session %s has it", err, first.ID())
	}
	first.Leave("enough", true)
	<-c.over
	third, c3 := begin()
	<-c3.active
	third.Leave("enough", true)
	<-c3.over
}

// TestPublishWhatIsJustGivenBack: who swaps again does not care about the last time's end.
func TestPublishWhatIsJustGivenBack(t *testing.T) {
	p := newLab(t).process(0)
	release := make(chan struct{})
	p.cluster.fail["Unshift"] = func() error {
		<-release
		return nil
	}
	at := freePort(t, "127.0.0.1")
	begin := func() (*Session, *collector) {
		s, events, err := p.Swap(t.Context(), Request{Ref: kube.Ref{Name: "web"}, Publish: []Publish{{At: at, Inside: 8080}}})
		if err != nil {
			t.Fatal(err)
		}
		c := &collector{session: s, active: make(chan struct{}), over: make(chan struct{})}
		go c.collect(events)
		return s, c
	}
	first, c := begin()
	<-c.active
	first.Leave("enough", true)
	for first.State() != Restoring && t.Context().Err() == nil {
		runtime.Gosched()
	}
	second, c2 := begin()
	for said := false; !said && t.Context().Err() == nil; runtime.Gosched() {
		c2.mu.Lock()
		said = slices.ContainsFunc(c2.messages, func(m string) bool {
			return strings.Contains(m, "waiting until session "+first.ID()+" has given "+at.String()+" back")
		})
		c2.mu.Unlock()
	}
	close(release)
	<-c.over
	<-c2.active
	second.Leave("enough", true)
	<-c2.over
}
