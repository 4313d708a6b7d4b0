package relay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair is a TCP connection's two ends.
func tcpPair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
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
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// relayed is a client and a server with a relay between them. done gives Relay's result.
func relayed(t *testing.T) (client, server *net.TCPConn, done <-chan error) {
	t.Helper()
	client, a := tcpPair(t)
	b, server := tcpPair(t)
	result := make(chan error, 1)
	go func() { result <- Relay(a, b) }()
	return client, server, result
}

func TestHalfClose(t *testing.T) {
	client, server, done := relayed(t)
	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(server); err != nil || string(b) != "question" {
		t.Fatalf("the server read %q, %v", b, err)
	}
	// The client's way has ended; the server's goes on.
	if _, err := io.WriteString(server, "answer"); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(client); err != nil || string(b) != "answer" {
		t.Fatalf("the client read %q, %v", b, err)
	}
	if err := <-done; err != nil {
		t.Errorf("relay: %v", err)
	}
}

func TestResetIsCarried(t *testing.T) {
	for _, c := range []struct {
		name string
		pick func(client, server *net.TCPConn) (resets, sees *net.TCPConn)
	}{
		{"from the client", func(c, s *net.TCPConn) (*net.TCPConn, *net.TCPConn) { return c, s }},
		{"from the server", func(c, s *net.TCPConn) (*net.TCPConn, *net.TCPConn) { return s, c }},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server, done := relayed(t)
			resets, sees := c.pick(client, server)
			if err := errors.Join(resets.SetLinger(0), resets.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := sees.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other end read %v", err)
			}
			if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("relay: %v", err)
			}
		})
	}
}

// TestAnswerBeforeReset: what a server said before it stopped listening still reaches the client.
func TestAnswerBeforeReset(t *testing.T) {
	client, server, done := relayed(t)
	if _, err := io.WriteString(server, "too large"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 9)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "too large" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil { // until the relay has noticed
		_, err = client.Write(make([]byte, 64<<10))
	}
	if err := <-done; err == nil {
		t.Error("relay: no error for bytes that nobody took")
	}
}

func TestBytesBothWays(t *testing.T) {
	client, server, done := relayed(t)
	const size = 8<<20 + 1
	sent := map[*net.TCPConn][]byte{client: make([]byte, size), server: make([]byte, size)}
	var wg sync.WaitGroup
	for from, to := range map[*net.TCPConn]*net.TCPConn{client: server, server: client} {
		_, _ = rand.Read(sent[from])
		wg.Go(func() {
			_, err := from.Write(sent[from])
			if err := errors.Join(err, from.CloseWrite()); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			got, err := io.ReadAll(to)
			if err != nil || !bytes.Equal(got, sent[from]) {
				t.Errorf("got %d bytes of %d, %v", len(got), size, err)
			}
		})
	}
	wg.Wait()
	if err := <-done; err != nil {
		t.Errorf("relay: %v", err)
	}
}

func TestEndedFromOutside(t *testing.T) {
	client, a := tcpPair(t)
	b, server := tcpPair(t)
	done := make(chan error, 1)
	go func() { done <- Relay(a, b) }()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("relay: %v", err)
	}
	for _, c := range []net.Conn{client, server} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("an end was left open")
		}
	}
}

// fake is a connection without a half-close, which can be reset.
type fake struct {
	net.Conn
	reset chan struct{}
	once  sync.Once
}

func (f *fake) Reset() error {
	f.once.Do(func() { close(f.reset) })
	return nil
}

func TestConnectionsThatCanDoLess(t *testing.T) {
	client, a := net.Pipe()
	b, server := net.Pipe()
	fa, fb := &fake{Conn: a, reset: make(chan struct{})}, &fake{Conn: b, reset: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- Relay(fa, fb) }()
	go func() {
		_, _ = io.WriteString(client, "hi")
		_ = client.Close()
	}()
	if b, err := io.ReadAll(server); err != nil || string(b) != "hi" {
		t.Errorf("%q, %v", b, err)
	}
	if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("relay: %v", err)
	}

	lost := errors.New("lost")
	client, a = net.Pipe()
	defer func() { _ = client.Close() }()
	fa = &fake{Conn: a, reset: make(chan struct{})}
	go func() { done <- Relay(fa, failing{lost}) }()
	if err := <-done; !errors.Is(err, lost) {
		t.Errorf("relay: %v", err)
	}
	select {
	case <-fa.reset:
	default:
		t.Error("a failure was not passed on as a reset")
	}
}

// failing is a connection that is broken.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Close() error              { return nil }

func (f failing) LocalAddr() net.Addr              { return nil }
func (f failing) RemoteAddr() net.Addr             { return nil }
func (f failing) SetDeadline(time.Time) error      { return nil }
func (f failing) SetReadDeadline(time.Time) error  { return nil }
func (f failing) SetWriteDeadline(time.Time) error { return nil }
