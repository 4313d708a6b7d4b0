package restart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/procnet"
)

// process is one on a port of this machine that is started again and again.
type process struct {
	t    *testing.T
	gate *Gate
	port int

	lis *net.TCPListener

	handled atomic.Int64 // requests that the servers were asked
}

func newProcess(t *testing.T) *process {
	t.Helper()
	p := &process{t: t, gate: New(), lis: anyPort(t)}
	p.port = p.lis.Addr().(*net.TCPAddr).Port
	p.gate.Attach(p)
	t.Cleanup(func() { _ = p.lis.Close() })
	p.gate.Started()
	return p
}

// Listening implements Listens; the port that is connected to may be another's by then, as in any sandbox.
func (p *process) Listening() ([]procnet.Socket, error) {
	return []procnet.Socket{{Network: "tcp4", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(p.port))}}, nil
}

// anyPort listens on a port that the kernel gives to no client: one of those that dial while nobody listens would connect to
// itself.
func anyPort(t *testing.T) *net.TCPListener {
	t.Helper()
	for {
		lis, err := listenOn(15000 + rand.IntN(15000))
		if err == nil {
			return lis
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func listenOn(port int) (*net.TCPListener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
}

func (p *process) listen() {
	p.t.Helper()
	lis, err := listenOn(p.port)
	if err != nil {
		p.t.Fatal(err)
	}
	p.lis = lis
}

// stop closes the port, and what waits in its queue.
func (p *process) stop() {
	p.t.Helper()
	if err := p.lis.Close(); err != nil {
		p.t.Error(err)
	}
}

func (p *process) dialContext(ctx context.Context) (net.Conn, error) {
	return p.gate.Dial(ctx, uint16(p.port), func() (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", p.port))
	})
}

func (p *process) dial() net.Conn {
	p.t.Helper()
	c, err := p.dialContext(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (p *process) accept() *net.TCPConn {
	p.t.Helper()
	c, err := p.lis.AcceptTCP()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// server serves HTTP, and says which one it is.
func (p *process) server(n int) *http.Server {
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			p.t.Errorf("server %d: %v", n, err)
		}
		p.handled.Add(1)
		if r.URL.Path == "/flushed" {
			w.(http.Flusher).Flush()
		}
		_, _ = fmt.Fprintf(w, "%d %s", n, body)
	})}
	lis := p.lis
	go func() { _ = s.Serve(lis) }() // ends with the server
	return s
}

// TestNoRequestIsLost: requests that change something, one after the other on kept connections and on new ones, over restarts
// of a server that ends in order and of one that just ends.
func TestNoRequestIsLost(t *testing.T) {
	for name, end := range map[string]func(*http.Server) error{
		"in order": func(s *http.Server) error { return s.Shutdown(context.WithoutCancel(t.Context())) },
		"at once":  (*http.Server).Close,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			server := p.server(0)
			defer func() { _ = server.Close() }()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var asked atomic.Int64
			var clients sync.WaitGroup
			for n := range 8 {
				clients.Go(func() { p.askOn(ctx, n, &asked) })
			}
			for n := range 10 {
				for target := asked.Load() + 30; asked.Load() < target && !t.Failed(); {
					time.Sleep(time.Millisecond)
				}
				p.gate.Hold(t.Context())
				if err := end(server); err != nil {
					t.Error(err)
				}
				p.gate.Started() // it listens later
				p.listen()
				server = p.server(n + 1)
			}
			stop()
			clients.Wait()
			if asked, handled := asked.Load(), p.handled.Load(); asked != handled {
				t.Errorf("%d requests were handled %d times", asked, handled)
			}
			t.Logf("%d requests", asked.Load())
		})
	}
}

// askOn asks until ctx ends. Every other client takes a new connection each time.
func (p *process) askOn(ctx context.Context, n int, asked *atomic.Int64) {
	transport := &http.Transport{DisableKeepAlives: n%2 == 0, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return p.dialContext(p.t.Context())
	}}
	defer transport.CloseIdleConnections()
	for i := 0; ctx.Err() == nil; i++ {
		body := fmt.Sprintf("client %d, request %d", n, i)
		path := []string{"/", "/flushed"}[i%2]
		// A Reader of a kind that the client does not know cannot be sent twice by it.
		r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://process"+path, struct{ io.Reader }{strings.NewReader(body)})
		if err != nil {
			p.t.Error(err)
			return
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			p.t.Errorf("%s: %v", body, err)
			return
		}
		got, err := io.ReadAll(answer.Body)
		if err != nil || !bytes.HasSuffix(got, []byte(" "+body)) {
			p.t.Errorf("%s: got %q, %v", body, got, err)
		}
		_ = answer.Body.Close()
		asked.Add(1)
	}
}

// TestHoldWaitsForAnswers: of what is under way, and it lets nothing new through.
func TestHoldWaitsForAnswers(t *testing.T) {
	p := newProcess(t)
	c := p.dial()
	old := p.accept()
	send(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		p.gate.Hold(t.Context())
	}()
	for p.gate.restarts() == 0 {
		time.Sleep(time.Millisecond)
	}
	send(t, c, "hi") // belongs to what is under way
	expect(t, old, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
	select {
	case <-quiet:
		t.Fatal("the process may end, and owes an answer")
	default:
	}
	send(t, old, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	expect(t, c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	<-quiet
	var later sync.WaitGroup
	later.Go(func() { send(t, c, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n") })
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	p.gate.Started()
	expect(t, p.accept(), "GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
	later.Wait()
}

// TestHoldEnds: it does not wait for ever for who does not answer, nor at all for an answer without an end.
func TestHoldEnds(t *testing.T) {
	p := newProcess(t)
	c, old := p.dial(), p.accept()
	send(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	p.gate.Hold(t.Context())
	p.gate.Started()
	send(t, old, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
	expect(t, c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	p.gate.Hold(gone)
}

// TestNextGetsWhatWasNotRead: what the old process had not accepted the next one gets, whole, whoever notices first, the
// reader or a writer.
func TestNextGetsWhatWasNotRead(t *testing.T) {
	for name, late := range map[string]bool{"all sent before": false, "half sent after": true} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			c := p.dial()
			halves := []string{strings.Repeat("one ", 100), strings.Repeat("two ", 100)}
			end := func() {
				send(t, c, halves[1])
				if err := c.(*conn).CloseWrite(); err != nil {
					t.Error(err)
				}
			}
			send(t, c, halves[0])
			if !late {
				end()
			}
			p.gate.Hold(t.Context())
			p.stop()
			var work sync.WaitGroup
			defer work.Wait()
			var answer []byte
			var readErr error
			work.Go(func() { answer, readErr = io.ReadAll(c) })
			if late {
				work.Go(end)
			}
			p.gate.Started()
			p.listen()
			next := p.accept()
			if got, err := io.ReadAll(next); err != nil || string(got) != strings.Join(halves, "") {
				t.Errorf("the next process got %d bytes, %v; want %d in order", len(got), err, len(halves[0])+len(halves[1]))
			}
			send(t, next, "done")
			_ = next.Close()
			work.Wait()
			if readErr != nil || string(answer) != "done" {
				t.Errorf("the client got %q, %v", answer, readErr)
			}
		})
	}
}

// TestNextGetsSafeRequests: and no others, of those that the old process had read and left without an answer.
func TestNextGetsSafeRequests(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			p := newProcess(t)
			c, old := p.dial(), p.accept()
			request := method + " / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
			send(t, c, request)
			expect(t, old, request)
			p.gate.Hold(t.Context())
			_ = old.Close()
			p.gate.Started()
			if method == http.MethodPost {
				if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("got %d, %v; want the end that the process made", n, err)
				}
				return
			}
			var client sync.WaitGroup
			client.Go(func() { expect(t, c, "HTTP/1.1 204 No Content\r\n\r\n") })
			next := p.accept()
			expect(t, next, request)
			send(t, next, "HTTP/1.1 204 No Content\r\n\r\n")
			client.Wait()
		})
	}
}

// TestArrivalsWait: who comes while nobody listens waits, and who comes while the old process still does.
func TestArrivalsWait(t *testing.T) {
	p := newProcess(t)
	p.gate.Hold(t.Context())
	var arrivals sync.WaitGroup
	for range 20 {
		arrivals.Go(func() {
			c, err := p.dialContext(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
		})
	}
	p.stop()
	p.gate.Started()
	p.listen()
	arrivals.Wait()
}

// TestWaitingEnds: without a restart nobody waits, nor when its time is over, nor who is gone.
func TestWaitingEnds(t *testing.T) {
	p := newProcess(t)
	kept := p.dial()
	p.accept()
	p.stop()
	refused := func(when string) {
		t.Helper()
		if c, err := p.dialContext(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v, %v, want refused", when, c, err)
		}
	}
	refused("without a restart")
	p.gate.Started()
	refused("at the first start")
	p.gate.Hold(t.Context())
	writing := make(chan error, 1)
	go func() {
		_, err := kept.Write([]byte("hello"))
		writing <- err
	}()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.dialContext(gone); err == nil {
		t.Error("connected")
	}
	if err := kept.Close(); err != nil {
		t.Error(err)
	}
	if err := <-writing; err == nil {
		t.Error("written to a connection that was closed")
	}
	began := time.Now()
	p.gate.now = func() time.Time { return began.Add(2 * Patience) }
	refused("when the time is over")
}

// TestEndsArePassedOn: those of connections that the next process cannot take over.
func TestEndsArePassedOn(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
	for name, c := range map[string]struct {
		sent, answered string
		restart, reset bool
	}{
		"without a restart":         {reset: true},
		"a protocol we do not know": {sent: "hello\r\n", answered: "hi\r\n", restart: true, reset: true},
		"who spoke first":           {answered: "220 hello\r\n", restart: true},
		"the last answer":           {sent: "GET / HTTP/1.0\r\n\r\n", answered: answer + "hi", restart: true},
		"half an answer":            {sent: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", answered: answer, restart: true},
		"what we do not keep":       {sent: strings.Repeat("A", maxUnanswered+1), restart: true, reset: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			client, old := p.dial(), p.accept()
			send(t, client, c.sent)
			if !c.reset { // what is unread makes one
				expect(t, old, c.sent)
			}
			send(t, old, c.answered)
			expect(t, client, c.answered)
			if c.restart {
				p.gate.Hold(t.Context())
			}
			if c.reset {
				_ = old.SetLinger(0)
			}
			_ = old.Close()
			p.gate.Started()
			want := error(io.EOF)
			if c.reset {
				want = syscall.ECONNRESET
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}

// TestNilGate changes nothing.
func TestNilGate(t *testing.T) {
	var g *Gate
	g.Attach(nil)
	g.Hold(t.Context())
	g.Started()
	want, other := net.Pipe()
	defer func() { _, _ = want.Close(), other.Close() }()
	if got, err := g.Dial(t.Context(), 1, func() (net.Conn, error) { return want, nil }); got != want || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func send(t *testing.T, to net.Conn, text string) {
	t.Helper()
	if text == "" {
		return
	}
	if _, err := io.WriteString(to, text); err != nil {
		t.Error(err)
	}
}

func expect(t *testing.T, from net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(from, got); err != nil || !slices.Equal(got, []byte(text)) {
		t.Errorf("got %q, %v; want %q", got, err, text)
	}
}
