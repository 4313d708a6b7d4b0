package netstack

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is what connections of either protocol have in common. Unlike gonet's its errors wrap errnos, it can be reset,
// and it waits on channels that it registers once and not at each read.
type socket struct {
	ep            tcpip.Endpoint
	queue         *waiter.Queue
	network       string
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

// open makes a socket of a connected endpoint.
func (c *socket) open(ep tcpip.Endpoint, queue *waiter.Queue) {
	c.ep, c.queue = ep, queue
	c.readBefore, c.writeUntil = newDeadline(), newDeadline()
	c.closed = make(chan struct{})
	const ended = waiter.EventHUp | waiter.EventErr
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | ended)
	c.writeEntry, c.writable = waiter.NewChannelEntry(waiter.WritableEvents | ended)
	queue.EventRegister(&c.readEntry)
	queue.EventRegister(&c.writeEntry)
}

// receive waits for what the endpoint gives: bytes of a stream, or one datagram. At the stream's end the error is io.EOF.
func (c *socket) receive(p []byte) (int, error) {
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

// send waits until write has found room, tells an error, or the time is over.
func (c *socket) send(write func() tcpip.Error) error {
	passed := c.writeUntil.passed()
	for {
		if err := c.interrupted("write", passed); err != nil {
			return err
		}
		err := write()
		switch err.(type) {
		case nil:
			return nil
		case *tcpip.ErrWouldBlock:
		default:
			return c.opError("write", errnoOf(err))
		}
		select {
		case <-c.writable:
		case <-passed:
		case <-c.closed:
		}
	}
}

// interrupted says whether the connection was closed or the deadline has passed.
func (c *socket) interrupted(op string, passed <-chan struct{}) error {
	select {
	case <-c.closed:
		return c.opError(op, net.ErrClosed)
	case <-passed:
		return c.opError(op, os.ErrDeadlineExceeded)
	default:
		return nil
	}
}

// Close implements net.Conn.
func (c *socket) Close() error {
	return c.end("close", c.ep.Close)
}

// end ends the connection once, by Close or Abort of the endpoint.
func (c *socket) end(op string, by func()) error {
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
func (c *socket) onEnd(f func()) {
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
func (c *socket) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *socket) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn: a call that waits already is ended too.
func (c *socket) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *socket) SetReadDeadline(t time.Time) error {
	c.readBefore.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *socket) SetWriteDeadline(t time.Time) error {
	c.writeUntil.set(t)
	return nil
}

func (c *socket) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.network, Source: c.local, Addr: c.remote, Err: err}
}
