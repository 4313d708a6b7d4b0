package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestClosedListenerIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	var mu sync.Mutex
	closed, refused := false, make(chan struct{}, 100)
	acceptAll(t, c, func(in *tunnel.Inbound) {
		mu.Lock()
		refuse := closed
		mu.Unlock()
		if refuse {
			_ = in.Refuse(syscall.ECONNREFUSED)
			refused <- struct{}{}
			return
		}
		echo(t)(in)
	})
	if answer, err := ask(t, p.addr(targetPort)); answer != "hello" || err != nil {
		t.Fatalf("got %q, %v", answer, err)
	}
	set := func(v bool) {
		mu.Lock()
		defer mu.Unlock()
		closed = v
	}
	set(true)
	answers := make(chan error, 1)
	later := func(want string) {
		got, err := ask(t, p.addr(targetPort))
		if err == nil && got != want {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		answers <- err
	}
	go later("hello")
	for range 5 { // longer than refusedPatience
		<-refused
	}
	set(false)
	if err := <-answers; err != nil {
		t.Errorf("after a restart: %v", err)
	}
	set(true)
	go later("original")
	<-refused
	if err := c.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(p.addr(targetPort))
	sayer(t, net.JoinHostPort("127.0.0.2", port), "original")
	if err := c.HandOver(t.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.2")}); err != nil {
		t.Fatal(err)
	}
	if err := <-answers; err != nil {
		t.Errorf("after a hand-over: %v", err)
	}
}

func TestDroppedUnseen(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer string // before the reset
		held   bool   // the laptop says Hold next
		closed bool   // the listener is closed next, and Hold comes later
		want   string // "reset" or what the client reads
	}{
		{name: "held", held: true, want: "original"},
		{name: "listener closed", closed: true, want: "original"},
		{name: "aborted by a process that still listens", want: "reset"},
		{name: "answered", answer: "some", want: "reset"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := startPod(t, nil)
			c := p.connect(t)
			asked, refused := make(chan string, 10), make(chan struct{}, 100)
			var listening atomic.Bool
			listening.Store(true)
			acceptAll(t, c, func(in *tunnel.Inbound) {
				if !listening.Load() {
					_ = in.Refuse(syscall.ECONNREFUSED)
					refused <- struct{}{}
					return
				}
				conn, err := in.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				b := make([]byte, 16)
				n, err := conn.Read(b)
				if n == 0 && errors.Is(err, syscall.ECONNRESET) { // asked whether it listens
					return
				}
				listening.Store(!tt.closed)
				if tt.held {
					if err := c.Hold(context.WithoutCancel(t.Context())); err != nil {
						t.Error(err)
					}
				}
				_, _ = conn.Write([]byte(tt.answer))
				_ = conn.(*tunnel.Conn).Reset()
				asked <- string(b[:n])
			})
			_, port, _ := net.SplitHostPort(p.addr(targetPort))
			sayer(t, net.JoinHostPort("127.0.0.2", port), "original")
			answer := make(chan string, 1)
			go func() {
				got, err := ask(t, p.addr(targetPort))
				if errors.Is(err, syscall.ECONNRESET) {
					got = "reset"
				} else if err != nil {
					got = err.Error()
				}
				answer <- got
			}()
			if got := <-asked; got != "hello" {
				t.Errorf("the process was sent %q", got)
			}
			if tt.closed {
				<-refused
				if err := c.Hold(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if tt.held || tt.closed {
				if err := c.HandOver(t.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.2")}); err != nil {
					t.Fatal(err)
				}
			}
			if got := <-answer; got != tt.want {
				t.Errorf("client got %q, want %q", got, tt.want)
			}
			if len(asked) > 0 {
				t.Errorf("asked %d times more", len(asked))
			}
		})
	}
}

func TestHoldAndHandOver(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	stop := acceptAll(t, c, echo(t))
	if answer, err := ask(t, p.addr(targetPort)); answer != "hello" || err != nil {
		t.Fatalf("got %q, %v", answer, err)
	}
	if err := c.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	answers := make(chan string, 10)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() {
			answer, err := ask(t, p.addr(targetPort))
			if err != nil {
				t.Error(err)
			}
			answers <- answer
		})
	}
	_, port, err := net.SplitHostPort(p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	sayer(t, net.JoinHostPort("127.0.0.2", port), "original")
	if err := c.HandOver(t.Context(), nil); err == nil {
		t.Error("handed over to nobody")
	}
	// 127.0.0.3 refuses: the next is tried.
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.2")}
	if err := c.HandOver(t.Context(), addrs); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	close(answers)
	for answer := range answers {
		if answer != "original" {
			t.Errorf("held connection got %q", answer)
		}
	}
	// The process ends after the originals have taken over: they keep it.
	if err := c.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	if answer, err := ask(t, p.addr(targetPort)); answer != "original" || err != nil {
		t.Errorf("after a late hold got %q, %v", answer, err)
	}
	if err := c.Close(); err != nil { // the hand-over needs no laptop
		t.Error(err)
	}
	if answer, err := ask(t, p.addr(targetPort)); answer != "original" || err != nil {
		t.Errorf("new connection got %q, %v", answer, err)
	}
}

func TestLaptopLostAndBack(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	first := p.connect(t)
	acceptAll(t, first, echo(t))
	if err := first.SetReady(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	// Lost without a goodbye: a second one takes its place.
	second := p.connect(t)
	select {
	case <-first.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the first laptop's tunnel goes on")
	}
	answer := make(chan error, 1)
	go func() {
		got, err := ask(t, p.addr(targetPort))
		if got != "hello" && err == nil {
			err = fmt.Errorf("got %q", got)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("nobody accepts, yet it was answered: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	acceptAll(t, second, echo(t))
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

func TestHeldTooLongIsReset(t *testing.T) {
	r := newRouter(nil, slog.New(slog.DiscardHandler))
	r.holdTime = 50 * time.Millisecond
	r.become(holding, nil)
	client, server := tcpPair(t)
	if !r.admit(t.Context()) {
		t.Fatal("not admitted")
	}
	r.route(t.Context(), server)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	if r.load() != 0 {
		t.Errorf("%d still counted as open", r.load())
	}
}

// TestSilentOriginals has original pods that do not answer: nobody is kept waiting for them. One that
// refuses is not up yet, and is tried again.
func TestSilentOriginals(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		tries int
		want  error
	}{
		{"silent", os.ErrDeadlineExceeded, silentOriginals, syscall.ECONNRESET},
		{"refuses at first", syscall.ECONNREFUSED, 6, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRouter(nil, slog.New(slog.DiscardHandler))
			tries := 0
			r.dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
				if tries++; tries < 6 {
					return nil, &net.OpError{Op: "dial", Err: tc.err}
				}
				here, there := net.Pipe()
				_ = there.Close()
				return here, nil
			}
			r.become(handedOver, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
			client, server := tcpPair(t)
			if !r.admit(t.Context()) {
				t.Fatal("not admitted")
			}
			routed := make(chan struct{})
			go func() {
				defer close(routed)
				r.route(t.Context(), server)
			}()
			_, err := client.Read(make([]byte, 1))
			_ = client.Close() // both sides have ended: so does the relay
			<-routed
			if !errors.Is(err, tc.want) || tries != tc.tries {
				t.Errorf("got %v after %d dials, want %v after %d", err, tries, tc.want, tc.tries)
			}
		})
	}
}

func TestHoldIsBounded(t *testing.T) {
	r := newRouter(nil, slog.New(slog.DiscardHandler))
	r.become(holding, nil)
	for range maxHeld {
		if !r.admit(t.Context()) {
			t.Fatal("turned away below the bound")
		}
	}
	if r.admit(t.Context()) {
		t.Error("admitted above the bound")
	}
}

func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}
