package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestPing(t *testing.T) {
	target := netip.MustParseAddr("10.244.0.9")
	answers := map[string]error{
		"ok":          nil,
		"unreachable": os.NewSyscallError("read", syscall.EHOSTUNREACH),
		"forbidden":   errors.Join(ErrPingUnavailable, errors.New("ping_group_range")),
	}
	c := newRig(t, func(cfg *ServerConfig) {
		cfg.Ping = func(ctx context.Context, to netip.Addr, payload []byte) error {
			if to != target {
				t.Errorf("ping to %s", to)
			}
			if string(payload) == "silence" {
				<-ctx.Done()
				return ctx.Err()
			}
			return answers[string(payload)]
		}
	}).connect(t)
	if err := c.Ping(t.Context(), netip.AddrFrom16(target.As16()), []byte("ok")); err != nil {
		t.Error(err)
	}
	if err := c.Ping(t.Context(), target, []byte("unreachable")); !errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, ErrPingUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := c.Ping(t.Context(), target, []byte("forbidden")); !errors.Is(err, ErrPingUnavailable) || !strings.Contains(err.Error(), "ping_group_range") {
		t.Errorf("got %v", err)
	}
	if err := c.Ping(t.Context(), target, make([]byte, maxPing+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("oversize: %v", err)
	}
	if err := c.Ping(t.Context(), netip.Addr{}, nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Ping(ctx, target, []byte("silence")) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_ = c.Close()
	if err := c.Ping(t.Context(), target, []byte("ok")); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestPingWithoutAnswerer(t *testing.T) {
	c := newRig(t, nil).connect(t)
	if err := c.Ping(t.Context(), netip.MustParseAddr("::1"), nil); !errors.Is(err, ErrPingUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestFilesStream(t *testing.T) {
	served := make(chan error, 4)
	c := newRig(t, func(cfg *ServerConfig) {
		cfg.Files = func(ctx context.Context, conn net.Conn) error { // an echo that ends by "."
			for {
				b := make([]byte, 64<<10)
				n, err := conn.Read(b)
				if err != nil {
					served <- err
					return err
				}
				if _, err := conn.Write(b[:n]); err != nil || b[n-1] == '.' {
					served <- err
					return err
				}
			}
		}
	}).connect(t)
	conn, err := c.DialFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("files"), 100<<10)
	go func() { _, _ = conn.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("echo differs: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, io.EOF) {
		t.Errorf("the agent saw %v, want the end", err)
	}

	if conn, err = c.DialFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(".")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "." || err != nil {
		t.Errorf("the agent's end: %q, %v", got, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	_ = conn.Close()

	if conn, err = c.DialFiles(t.Context()); err != nil { // the laptop vanishes
		t.Fatal(err)
	}
	_ = c.conn.Close()
	if err := <-served; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the agent saw %v", err)
	}
	_ = conn.Close()
}

func TestFilesNotServed(t *testing.T) {
	if _, err := newRig(t, nil).connect(t).DialFiles(t.Context()); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("got %v", err)
	}
}

func TestWatchTrees(t *testing.T) {
	trees := []*Tree{
		{Root: "/etc/config", Entries: []TreeEntry{
			{Path: "", Mode: 0o40755},
			{Path: "..data", Mode: 0o120777, Link: "..2026"},
			{Path: "..2026/\xff", Mode: 0o100644, Content: []byte{0, 1, 2}},
		}},
		{Root: "/etc/config", Error: "too large: \xff"},
	}
	ended := make(chan struct{}, 1)
	c := newRig(t, func(cfg *ServerConfig) {
		cfg.WatchTrees = func(ctx context.Context, roots []string, give func(*Tree) error) error {
			defer func() { ended <- struct{}{} }()
			if len(roots) == 0 {
				return errors.New("no roots")
			}
			for _, tree := range trees {
				if err := give(tree); err != nil {
					return err
				}
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}).connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	var got []*Tree
	err := c.WatchTrees(ctx, []string{"/etc/config"}, func(tree *Tree) {
		if got = append(got, tree); len(got) == len(trees) {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
	<-ended
	if len(got) != 2 || !reflect.DeepEqual(normal(got[0]), normal(trees[0])) || got[1].Error != "too large: ?" {
		t.Errorf("got %+v", got)
	}
	if err := c.WatchTrees(t.Context(), nil, nil); err == nil || !strings.HasSuffix(err.Error(), ": no roots") {
		t.Errorf("got %v", err)
	}
	<-ended
	done := make(chan error, 1)
	go func() {
		done <- c.WatchTrees(t.Context(), []string{"/etc/config"}, func(*Tree) { go func() { _ = c.Close() }() })
	}()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("a broken tunnel: %v", err)
	}
	<-ended
}

// normal makes absent and empty content alike.
func normal(t *Tree) *Tree {
	for i := range t.Entries {
		t.Entries[i].Content = append([]byte{}, t.Entries[i].Content...)
	}
	return t
}

// logSink keeps what the agent wrote, and can be made to block or fail.
type logSink struct {
	mu       sync.Mutex
	out, err bytes.Buffer
	gate     chan struct{} // nil: open
	fail     error
}

func (s *logSink) write(stderr bool, p []byte) error {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if stderr {
		s.err.Write(p)
	} else {
		s.out.Write(p)
	}
	return nil
}

func TestLogs(t *testing.T) {
	sink := &logSink{}
	ended := make(chan struct{}, 1)
	c := newRig(t, func(cfg *ServerConfig) {
		cfg.Log = sink.write
		cfg.LogEnd = func() { ended <- struct{}{} }
	}).connect(t)
	l, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("a line of many\n"), 20000)
	var wg sync.WaitGroup
	wg.Go(func() { mustWrite(t, l, false, large) })
	wg.Go(func() { mustWrite(t, l, true, []byte("no newline \x00\xff")) })
	wg.Wait()
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	<-ended
	if !bytes.Equal(sink.out.Bytes(), large) || sink.err.String() != "no newline \x00\xff" {
		t.Errorf("%d bytes out, err %q", sink.out.Len(), sink.err.String())
	}
	if err := l.Write(false, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func mustWrite(t *testing.T, l *LogStream, stderr bool, p []byte) {
	t.Helper()
	if err := l.Write(stderr, p); err != nil {
		t.Error(err)
	}
}

func TestLogsBlockAndFail(t *testing.T) {
	sink := &logSink{gate: make(chan struct{})}
	c := newRig(t, func(cfg *ServerConfig) { cfg.Log = sink.write }).connect(t)
	l, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const total = 2 * streamWindow
	done := make(chan error, 1)
	go func() { done <- l.Write(false, make([]byte, total)) }()
	select {
	case err := <-done:
		t.Fatalf("took %d bytes that nobody wrote: %v", total, err)
	case <-time.After(200 * time.Millisecond): // it waits; too short a time would only pass wrongly
	}
	close(sink.gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if sink.out.Len() != total {
		t.Errorf("%d bytes of %d", sink.out.Len(), total)
	}

	sink.mu.Lock()
	sink.fail = os.NewSyscallError("write", syscall.EPIPE)
	sink.mu.Unlock()
	if l, err = c.Logs(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, l, true, []byte("x"))
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("got %v", err)
	}
}

func TestPodListening(t *testing.T) {
	r := newRig(t, nil)
	r.server.Announce(PodListening{TCP: []netip.AddrPort{v4}})
	r.server.Announce(ListenFailed{Port: 80, Err: errors.New("in use")})
	want := PodListening{TCP: []netip.AddrPort{v4, v6}, UDP: []netip.AddrPort{v6}}
	r.server.Announce(want) // in place of the first
	c := r.connect(t)
	first, second := <-c.Events(), <-c.Events()
	if _, ok := first.(ListenFailed); !ok {
		t.Errorf("first event %#v", first)
	}
	if !reflect.DeepEqual(second, want) {
		t.Errorf("got %#v, want %#v", second, want)
	}
	r.server.Announce(PodListening{})
	if e := <-c.Events(); !reflect.DeepEqual(e, PodListening{}) {
		t.Errorf("got %#v", e)
	}
}

// An event that is announced while a laptop says hello must not come before its welcome.
func TestAnnounceWhileConnecting(t *testing.T) {
	r := newRig(t, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for !isClosed(stop) {
			r.server.Announce(PodListening{TCP: []netip.AddrPort{v4}})
		}
	})
	for range 20 {
		c, err := Connect(t.Context(), ClientConfig{Dial: r.dial})
		if err != nil {
			t.Error(err)
			break
		}
		_ = c.Close()
	}
	close(stop)
	wg.Wait()
}
