package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// lingerTime is how long a closed connection may take to bring what was written
	// before Close to the other end.
	lingerTime = time.Minute

	// resetTime is how long the agent has to take a reset in its place behind the bytes
	// before the stream is cancelled.
	resetTime = time.Second
)

// Conn is a TCP connection that the agent holds, at the laptop. It is a net.Conn with
// what TCP has besides; safe for concurrent use. (The agent uses it too, for the one
// end of a byte stream that is not a socket's but its own.)
//
// Goroutine receive reads the stream until the agent has ended it, so the connection
// lives on shortly after Close, as a TCP connection does in the kernel.
type Conn struct {
	frames frameStream
	queue  *sendQueue         // also frames.buffers
	cancel context.CancelFunc // resets the stream
	spawn  func(func())       // runs a goroutine that the client waits for

	local, remote net.Addr

	readMu  sync.Mutex
	reading inFrame // what is left of the frame being read

	writeMu sync.Mutex
	finSent bool

	incoming chan inFrame  // from receive to Read; closed at the peer's end
	readErr  error         // set before incoming is closed
	broken   chan struct{} // closed when the connection was reset, by either side
	breakErr error         // set before broken is closed
	breaking sync.Once
	closed   chan struct{} // closed by Close
	closing  sync.Once

	readDeadline, writeDeadline deadline
}

// newConn wraps a stream whose opening is over. The caller runs c.run.
func newConn(frames frameStream, cancel context.CancelFunc, spawn func(func()), local, remote net.Addr) *Conn {
	return &Conn{
		frames: frames, cancel: cancel, spawn: spawn,
		queue: frames.buffers.(*sendQueue),
		local: local, remote: remote,
		incoming: make(chan inFrame),
		broken:   make(chan struct{}),
		closed:   make(chan struct{}),
	}
}

// run receives until the agent has ended the stream, then releases it.
func (c *Conn) run() {
	defer c.cancel()
	if err := c.receive(); err != nil {
		c.fail(err)
	}
}

// fail ends the connection with an error that Read and Write return from now on.
func (c *Conn) fail(err error) {
	c.breaking.Do(func() {
		c.breakErr = err
		close(c.broken)
	})
}

// receive hands what arrives to Read, or drops it once the connection is closed. It
// returns nil where the stream ended as it should.
func (c *Conn) receive() error {
	finished := false
	finish := func(err error) {
		if !finished {
			finished = true
			c.readErr = err
			close(c.incoming)
		}
	}
	for {
		var m inFrame
		if err := c.frames.recv(&m); err != nil {
			if finished && errors.Is(err, io.EOF) {
				return nil
			}
			err = brokenStream(err)
			finish(err)
			return err
		}
		switch {
		case m.kind == kindData && !finished:
			select {
			case c.incoming <- m:
			case <-c.closed:
				m.free()
			case <-c.frames.stream.Context().Done():
				m.free()
			}
		case m.kind == kindFin && !c.frames.datagrams, m.kind == kindClose:
			m.free()
			finish(io.EOF)
		case m.kind == kindReset:
			failure, err := parseFailure(kindReset, m.bytes())
			if err != nil {
				failure.code = codeReset
			}
			finish(failure.code.errno())
			return failure.code.errno()
		default:
			m.free()
			err := fmt.Errorf("%w: %w: %s", syscall.ECONNRESET, errFrameUnexpected, m.kind)
			finish(err)
			return err
		}
	}
}

// Read reads from the connection. A reset by the other end is syscall.ECONNRESET.
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if err := c.readable(); err != nil {
		return 0, c.readError(err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.reading.body.Remaining() == 0 {
		if err := c.nextFrame(); err != nil {
			return 0, c.readError(err)
		}
	}
	return c.reading.body.Read(p)
}

// readable returns why nothing may be read, even if something is there.
func (c *Conn) readable() error {
	switch {
	case isClosed(c.closed):
		return net.ErrClosed
	case isClosed(c.readDeadline.done()):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// nextFrame waits for the next DATA.
func (c *Conn) nextFrame() error {
	c.reading.free()
	select {
	case m, ok := <-c.incoming:
		if !ok {
			return c.readErr
		}
		c.reading = m
		return nil
	case <-c.readDeadline.done():
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return net.ErrClosed
	}
}

// Write writes to the connection. It returns once the bytes are queued, as TCP does.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	for first := true; first || n < len(p); first = false {
		if err := c.waitWritable(); err != nil {
			return n, c.opError("write", err)
		}
		size := min(len(p)-n, maxPayload)
		if size == 0 {
			return 0, nil
		}
		b := c.queue.Get(frameHeader + size)
		copy((*b)[frameHeader:], p[n:n+size])
		if err := c.frames.send(kindData, b); err != nil {
			return n, c.opError("write", c.writeError())
		}
		n += size
	}
	return n, nil
}

// waitWritable waits for room in the queue.
func (c *Conn) waitWritable() error {
	for {
		switch {
		case isClosed(c.closed):
			return net.ErrClosed
		case isClosed(c.writeDeadline.done()):
			return os.ErrDeadlineExceeded
		case isClosed(c.broken):
			return c.breakErr
		case c.finSent:
			return syscall.EPIPE
		case c.queue.hasRoom():
			return nil
		}
		select {
		case <-c.queue.free:
		case <-c.writeDeadline.done():
		case <-c.broken:
		case <-c.closed:
		}
	}
}

// writeError says why the stream took no more.
func (c *Conn) writeError() error {
	switch {
	case isClosed(c.closed):
		return net.ErrClosed
	case isClosed(c.broken):
		return c.breakErr
	}
	return syscall.ECONNRESET
}

// CloseWrite says to the other end that no more bytes will come (half-close).
func (c *Conn) CloseWrite() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	switch {
	case isClosed(c.closed):
		return c.opError("close", net.ErrClosed)
	case isClosed(c.broken):
		return c.opError("close", c.breakErr)
	case c.finSent:
		return nil
	}
	c.finSent = true
	if err := c.frames.sendBody(kindFin, nil); err != nil {
		return c.opError("close", c.writeError())
	}
	return nil
}

// Close closes the connection. What was written before still goes out; the other end
// sees what it would see of a TCP socket that is closed.
func (c *Conn) Close() error {
	first := false
	c.closing.Do(func() {
		first = true
		close(c.closed)
	})
	if !first {
		return c.opError("close", net.ErrClosed)
	}
	// Write has returned, or is about to: it looks at closed.
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	ctx := c.frames.stream.Context()
	timer := time.AfterFunc(lingerTime, c.cancel)
	context.AfterFunc(ctx, func() { timer.Stop() })
	switch {
	case ctx.Err() != nil:
	case isClosed(c.broken):
		c.cancel()
	case c.queue.hasRoom():
		c.sendClose()
	default: // it would have to wait
		c.spawn(c.sendClose)
	}
	return nil
}

// sendClose sends CLOSE behind what was written. The agent then ends the stream.
func (c *Conn) sendClose() {
	if c.frames.sendBody(kindClose, nil) != nil {
		c.cancel()
	}
}

// Reset ends the connection with a reset (RST) at the other end, dropping what has not
// been read here.
func (c *Conn) Reset() error {
	first := false
	c.closing.Do(func() {
		first = true
		c.fail(syscall.ECONNRESET)
		close(c.closed)
	})
	if !first {
		return c.opError("close", net.ErrClosed)
	}
	c.writeMu.Lock() // as in Close
	defer c.writeMu.Unlock()
	ctx := c.frames.stream.Context()
	body := failureBody{code: codeReset}.append(nil)
	if ctx.Err() != nil || !c.queue.hasRoom() || c.frames.sendBody(kindReset, body) != nil {
		c.cancel()
		return nil
	}
	// The frame waits behind bytes that the agent may not get rid of; a cancelled stream
	// does not. But the frame comes first: it says that it was the process's doing.
	timer := time.AfterFunc(resetTime, c.cancel)
	context.AfterFunc(ctx, func() { timer.Stop() })
	return nil
}

// LocalAddr is the address of the end that the agent holds: in the pod.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address of the other end, as the agent sees it.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline.set(t)
	c.writeDeadline.set(t)
	return nil
}

// SetReadDeadline sets the deadline of Read.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline sets the deadline of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline.set(t)
	return nil
}

func (c *Conn) readError(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return c.opError("read", err)
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// brokenStream is what a stream that ended out of order means to a connection.
func brokenStream(err error) error {
	return fmt.Errorf("%w (%w)", syscall.ECONNRESET, err)
}
