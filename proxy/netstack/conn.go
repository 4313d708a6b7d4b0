package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// conn is a TCP connection of the stack. Unlike gonet's its errors wrap errnos, it can be reset, and it waits on
// channels that it registers once and not at each read.
type conn struct {
	ep            tcpip.Endpoint
	queue         *waiter.Queue
	local, remote net.Addr

	readable, writable     <-chan struct{}
	readEntry, writeEntry  waiter.Entry
	readBefore, writeUntil *deadline

	readMu, writeMu sync.Mutex // one reader and one writer at a time wait on the channels above

	closed chan struct{}

	endMu sync.Mutex
	ended bool
	after []func() // called once, at the end
}

// newConn wraps an established endpoint.
func newConn(ep tcpip.Endpoint, queue *waiter.Queue, local, remote netip.AddrPort) *conn {
	c := &conn{
		ep: ep, queue: queue,
		local: net.TCPAddrFromAddrPort(local), remote: net.TCPAddrFromAddrPort(remote),
		readBefore: newDeadline(), writeUntil: newDeadline(),
		closed: make(chan struct{}),
	}
	const ended = waiter.EventHUp | waiter.EventErr
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | ended)
	c.writeEntry, c.writable = waiter.NewChannelEntry(waiter.WritableEvents | ended)
	queue.EventRegister(&c.readEntry)
	queue.EventRegister(&c.writeEntry)
	return c
}

// Read implements net.Conn. What arrived before a reset is still read before syscall.ECONNRESET.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	passed := c.readBefore.passed()
	for {
		if err := c.interrupted("read", passed); err != nil {
			return 0, err
		}
		w := tcpip.SliceWriter(p)
		res, err := c.ep.Read(&w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
		case *tcpip.ErrClosedForReceive:
			// The stack tells a reset once. Where Write was told, this is how Read hears of it.
			if tcp.EndpointState(c.ep.State()) == tcp.StateError {
				return 0, c.opError("read", syscall.ECONNRESET)
			}
			return 0, io.EOF
		default:
			return 0, c.opError("read", errnoOf(err))
		}
		select {
		case <-c.readable:
		case <-passed:
		case <-c.closed:
		}
	}
}

// Write implements net.Conn. It blocks while the send buffer is full.
func (c *conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	passed := c.writeUntil.passed()
	var r bytes.Reader
	done := 0
	for done < len(p) {
		if err := c.interrupted("write", passed); err != nil {
			return done, err
		}
		r.Reset(p[done:])
		n, err := c.ep.Write(&r, tcpip.WriteOptions{})
		done += int(n)
		switch err.(type) {
		case nil:
			continue
		case *tcpip.ErrWouldBlock:
		default:
			return done, c.opError("write", errnoOf(err))
		}
		select {
		case <-c.writable:
		case <-passed:
		case <-c.closed:
		}
	}
	return done, nil
}

// interrupted says whether the connection was closed or the deadline has passed.
func (c *conn) interrupted(op string, passed <-chan struct{}) error {
	select {
	case <-c.closed:
		return c.opError(op, net.ErrClosed)
	case <-passed:
		return c.opError(op, os.ErrDeadlineExceeded)
	default:
		return nil
	}
}

// CloseWrite ends the sending way: the other end reads EOF.
func (c *conn) CloseWrite() error {
	if err := c.ep.Shutdown(tcpip.ShutdownWrite); err != nil {
		return c.opError("close", errnoOf(err))
	}
	return nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	return c.end("close", c.ep.Close)
}

// Reset closes the connection so that the other end sees a reset.
func (c *conn) Reset() error {
	return c.end("reset", c.ep.Abort)
}

// end ends the connection once, by Close or Abort of the endpoint.
func (c *conn) end(op string, by func()) error {
	c.endMu.Lock()
	if c.ended {
		c.endMu.Unlock()
		return c.opError(op, net.ErrClosed)
	}
	c.ended = true
	after := c.after
	c.endMu.Unlock()
	close(c.closed)
	by()
	c.queue.EventUnregister(&c.readEntry)
	c.queue.EventUnregister(&c.writeEntry)
	for _, f := range after {
		f()
	}
	return nil
}

// onEnd lets f be called when the connection is closed or reset, or at once where it is already.
func (c *conn) onEnd(f func()) {
	c.endMu.Lock()
	ended := c.ended
	if !ended {
		c.after = append(c.after, f)
	}
	c.endMu.Unlock()
	if ended {
		f()
	}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn: a call that waits already is ended too.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.readBefore.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writeUntil.set(t)
	return nil
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
