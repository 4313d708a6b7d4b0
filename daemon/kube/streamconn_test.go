package kube

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// streams are the far end of a streamConn.
type streams struct {
	toConn   *io.PipeWriter // its data
	fromConn *io.PipeReader
	failure  *io.PipeWriter // its error stream
}

func pipeConn(t *testing.T) (*streamConn, *streams) {
	t.Helper()
	dataR, dataW := io.Pipe()
	backR, backW := io.Pipe()
	failR, failW := io.Pipe()
	closer := func() error {
		return errors.Join(dataR.CloseWithError(net.ErrClosed), backW.CloseWithError(net.ErrClosed), failR.CloseWithError(net.ErrClosed))
	}
	duplex := struct {
		io.Reader
		io.Writer
	}{dataR, backW}
	conn := newStreamConn(duplex, failR, forwardAddr("shop/web-1:80"), closer)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, &streams{toConn: dataW, fromConn: backR, failure: failW}
}

func TestStreamConnCarries(t *testing.T) {
	conn, far := pipeConn(t)
	payload := bytes.Repeat([]byte("0123456789"), 50_000)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = far.toConn.Write(payload)
		_ = far.failure.Close()
		_ = far.toConn.Close()
	})
	got, err := io.ReadAll(conn)
	wg.Wait()
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	wg.Go(func() {
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
	})
	back := make([]byte, 5)
	if _, err := io.ReadFull(far.fromConn, back); err != nil || string(back) != "hello" {
		t.Errorf("the far end read %q, %v", back, err)
	}
	wg.Wait()
	if conn.RemoteAddr().String() != "shop/web-1:80" || conn.LocalAddr().Network() != "portforward" {
		t.Errorf("addresses %v, %v", conn.LocalAddr(), conn.RemoteAddr())
	}
}

func TestStreamConnTellsTheFailure(t *testing.T) {
	conn, far := pipeConn(t)
	go func() { // ends with its two writes
		_ = far.toConn.Close()
		_, _ = io.WriteString(far.failure, "connection refused\n")
		_ = far.failure.Close()
	}()
	for range 2 {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, errForward) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
	}
}

func TestStreamConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, far := pipeConn(t)
		one := make([]byte, 1)
		start := time.Now()
		expectTimeout := func(after time.Duration) {
			t.Helper()
			var timeout net.Error
			_, err := conn.Read(one)
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took != after {
				t.Errorf("timed out after %s, want %s", took, after)
			}
		}
		set := func(d time.Duration) {
			t.Helper()
			if err := conn.SetReadDeadline(start.Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		set(time.Second)
		expectTimeout(time.Second)
		expectTimeout(time.Second) // it stays expired
		set(3 * time.Second)
		go func() { // ends when the deadline has been moved nearer
			time.Sleep(500 * time.Millisecond)
			set(2 * time.Second)
		}()
		expectTimeout(2 * time.Second)
		set(-time.Second) // long past
		expectTimeout(2 * time.Second)

		if err := conn.SetDeadline(start); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(one); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write past its deadline: %v", err)
		}
		if err := errors.Join(conn.SetDeadline(time.Time{}), conn.SetWriteDeadline(time.Time{})); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = far.toConn.Write([]byte("x")) }() // ends when it is read
		if n, err := conn.Read(one); n != 1 || err != nil {
			t.Errorf("without a deadline: %d, %v", n, err)
		}
	})
}

func TestStreamConnCloseWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := pipeConn(t)
		read := make(chan error)
		go func() { // ends when the connection is closed
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
	})
}
