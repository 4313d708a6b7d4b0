// Package relay carries bytes between two connections, both ways, until both ways have ended. It knows net.Conn only.
package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// bufferSize is one read's length: 64 KiB keep the copy off the profile; more costs memory per connection.
	bufferSize = 64 << 10
	// drainTime bounds how long a connection that no longer takes bytes may still deliver what it had received.
	drainTime = 5 * time.Second
)

// halfCloser is implemented by connections that can end one way only, as *net.TCPConn.
type halfCloser interface{ CloseWrite() error }

// resetter is implemented by connections that can be aborted so that the other end sees a reset. It may be called
// more than once, from several goroutines, and before and after Close.
type resetter interface{ Reset() error }

// lingerer is *net.TCPConn's way to be aborted.
type lingerer interface{ SetLinger(sec int) error }

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// Relay copies from a to b and from b to a until both ways have ended, and closes both. The end of one way is passed
// on by CloseWrite while the other goes on (a connection without CloseWrite is closed instead); a failure, a reset
// above all, is passed on by Reset. It returns nil when both ways ended in order, else the first failure. To end it early
// close one of the connections.
func Relay(a, b net.Conn) error {
	var p pair
	var ways sync.WaitGroup
	ways.Go(func() { p.copy(a, b) })
	p.copy(b, a)
	ways.Wait()
	if p.failure != nil {
		// A way that failed while writing has left its source open so that the other way could end.
		Reset(a)
		Reset(b)
		return p.failure
	}
	return errors.Join(ignoreClosed(a.Close()), ignoreClosed(b.Close()))
}

// pair is what the two ways share.
type pair struct {
	once    sync.Once
	failure error // the first; what the other way sees of it comes later
}

func (p *pair) fail(err error) { p.once.Do(func() { p.failure = err }) }

// copy copies until src ends, and ends dst's way then, or resets both where src failed.
func (p *pair) copy(dst, src net.Conn) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				p.fail(werr)
				// dst takes no more, but what it sent before may still be on its way to src.
				_ = dst.SetReadDeadline(time.Now().Add(drainTime))
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			if err := closeWrite(dst); err != nil {
				p.fail(err)
			}
			return
		default:
			p.fail(err)
			Reset(dst)
			Reset(src)
			return
		}
	}
}

// closeWrite tells dst that nothing more comes. That dst is gone already is no failure: all bytes were taken.
func closeWrite(dst net.Conn) error {
	hc, ok := dst.(halfCloser)
	if !ok {
		return ignoreClosed(dst.Close())
	}
	err := hc.CloseWrite()
	if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return ignoreClosed(err)
}

// Reset aborts c so that its other end sees a reset, where c can do that; otherwise it closes c.
func Reset(c net.Conn) {
	switch c := c.(type) {
	case resetter:
		_ = c.Reset()
	case lingerer:
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
