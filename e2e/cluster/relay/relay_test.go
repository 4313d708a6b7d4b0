//go:build linux

package relay

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// start runs a relay to an address and gives its own, and a function that ends
// it and waits.
func start(t *testing.T, to string) (addr string, stop func()) {
	t.Helper()
	r := Relay{Listener: listen(t), To: to, Dial: new(net.Dialer).DialContext, Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return r.Listener.Addr().String(), func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// The server answers only once it has seen the client's end, which therefore
// must be carried without closing the way back.
func TestHalfClose(t *testing.T) {
	server := listen(t)
	served := make(chan error, 1)
	go func() {
		c, err := server.Accept()
		if err != nil {
			served <- err
			return
		}
		defer func() { _ = c.Close() }()
		all, err := io.ReadAll(c)
		if err == nil {
			_, err = c.Write(append([]byte("got "), all...))
		}
		served <- err
	}()
	addr, stop := start(t, server.Addr().String())
	defer stop()
	c := dial(t, addr)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || string(answer) != "got hello" {
		t.Errorf("got %q, %v", answer, err)
	}
	if err := <-served; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestStopClosesConnections(t *testing.T) {
	server := listen(t)
	addr, stop := start(t, server.Addr().String())
	c := dial(t, addr)
	far, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	stop()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the client's connection is open after the relay has ended")
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the server's connection is open after the relay has ended")
	}
}

func TestNobodyThere(t *testing.T) {
	gone := listen(t)
	_ = gone.Close()
	addr, stop := start(t, gone.Addr().String())
	defer stop()
	if _, err := dial(t, addr).Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open though nobody is at the other end")
	}
}
