package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// pair is a connection through the tunnel: the laptop's end, and the TCP connection that
// the agent's end is connected to.
func pair(tb testing.TB, c *Client) (*Conn, *net.TCPConn) {
	tb.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	near, err := c.DialContext(tb.Context(), "tcp", lis.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	far, err := lis.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near.(*Conn), far.(*net.TCPConn)
}

func TestConnIsANetConn(t *testing.T) {
	c := newRig(t, nil).connect(t)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		near, far := pair(t, c)
		return near, far, func() { _ = near.Close(); _ = far.Close() }, nil
	})
}

func TestConnHalfClose(t *testing.T) {
	c := newRig(t, nil).connect(t)
	t.Run("ours first", func(t *testing.T) {
		near, far := pair(t, c)
		if _, err := near.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after half-close: %v", err)
		}
		if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
			t.Errorf("far end read %q, %v", got, err)
		}
		if _, err := far.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		_ = far.Close()
		if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
			t.Errorf("near end read %q, %v", got, err)
		}
	})
	t.Run("theirs first", func(t *testing.T) {
		near, far := pair(t, c)
		if err := far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read %v, want EOF", err)
		}
		if _, err := near.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		_ = near.Close()
		if got, err := io.ReadAll(far); string(got) != "late" || err != nil {
			t.Errorf("far end read %q, %v", got, err)
		}
	})
}

func TestConnReset(t *testing.T) {
	c := newRig(t, nil).connect(t)
	t.Run("by us", func(t *testing.T) {
		near, far := pair(t, c)
		if err := near.Reset(); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("far end got %v", err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("near end got %v", err)
		}
	})
	t.Run("by them, reading", func(t *testing.T) {
		near, far := pair(t, c)
		_ = far.SetLinger(0)
		_ = far.Close()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("near end got %v", err)
		}
		if _, err := near.Write([]byte{1}); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("near end's write got %v", err)
		}
	})
	t.Run("by them, writing only", func(t *testing.T) {
		near, far := pair(t, c)
		_, _ = far.Write(bytes.Repeat([]byte{1}, 256<<10)) // which nobody reads
		_ = far.SetLinger(0)
		_ = far.Close()
		_ = near.SetWriteDeadline(time.Now().Add(10 * time.Second))
		var err error
		for err == nil {
			_, err = near.Write(make([]byte, 4<<10))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("near end's write got %v", err)
		}
	})
	t.Run("with the tunnel", func(t *testing.T) {
		c := newRig(t, nil).connect(t)
		near, far := pair(t, c)
		_ = c.Close()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("near end got %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("far end got %v", err)
		}
	})
}

// A closed connection brings what was written before to the other end, even though that
// one is slow.
func TestConnCloseDelivers(t *testing.T) {
	c := newRig(t, nil).connect(t)
	near, far := pair(t, c)
	want := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	written := make(chan error, 1)
	go func() {
		_, err := near.Write(want)
		written <- errors.Join(err, near.Close())
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if err := near.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

// A reader that does not read stops the writer, both ways, after a bounded amount.
func TestConnBackPressure(t *testing.T) {
	const bound = 64 << 20 // windows, socket buffers and all
	c := newRig(t, nil).connect(t)
	t.Run("outwards", func(t *testing.T) {
		near, _ := pair(t, c)
		if n := fillUp(t, near); n > bound {
			t.Errorf("took %d bytes", n)
		}
	})
	t.Run("inwards", func(t *testing.T) {
		_, far := pair(t, c)
		if n := fillUp(t, far); n > bound {
			t.Errorf("took %d bytes", n)
		}
	})
	t.Run("others go on", func(t *testing.T) {
		stuck, _ := pair(t, c)
		fillUp(t, stuck)
		near, far := pair(t, c)
		go func() { _, _ = io.Copy(far, far) }()
		if _, err := near.Write([]byte{7}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}

// fillUp writes until nothing has been taken for a while.
func fillUp(t *testing.T, conn net.Conn) int {
	t.Helper()
	total, block := 0, make([]byte, 256<<10)
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := conn.Write(block)
		total += n
		if errors.Is(err, os.ErrDeadlineExceeded) && n == 0 {
			return total
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if total > 1<<30 {
			t.Fatal("never stops")
		}
	}
}

func TestDialErrors(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	c := newRig(t, nil).connect(t)
	if _, err := c.DialContext(t.Context(), "tcp", closed.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
	for _, address := range []string{"localhost:80", "127.0.0.1", ""} {
		if _, err := c.DialContext(t.Context(), "tcp", address); err == nil {
			t.Errorf("dial %q: no error", address)
		}
	}
	if _, err := c.DialContext(t.Context(), "unix", "127.0.0.1:53"); err == nil {
		t.Error("dial unix: no error")
	}
	_ = c.Close()
	_, err = c.DialContext(t.Context(), "tcp", closed.Addr().String())
	if !errors.Is(err, syscall.ENETUNREACH) || !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestDialEndsWithContext(t *testing.T) {
	dialling := make(chan struct{})
	left := make(chan struct{})
	c := newRig(t, func(cfg *ServerConfig) {
		cfg.Dial = func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			close(dialling)
			<-ctx.Done()
			close(left)
			return nil, ctx.Err()
		}
	}).connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-dialling
		cancel()
	}()
	if _, err := c.DialContext(ctx, "tcp", "192.0.2.1:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-left // the pod's dial ends too
}
