package restart

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/relay"
)

// maxUnanswered is how much of a request is kept until it begins to be answered, as the agent keeps it.
const maxUnanswered = 64 << 10

// conn is a connection to a process that may be restarted, see Gate.Dial.
type conn struct {
	ctx  context.Context //nolint:containedctx // lasts as long as the connection
	gate *Gate
	dial func() (net.Conn, int, error) // connects to the next process
	gone chan struct{}                 // closed with the connection

	writing sync.Mutex // held while something is sent, so that the next process gets it in order
	ended   bool       // the client sends no more; guarded by writing

	mu       sync.Mutex
	conn     net.Conn
	age      int // how many restarts there had been when it was dialled
	closed   bool
	failed   bool // there is no next process to have it
	follow   exchange
	sent     []byte // by the client since nothing was under way
	overlong bool   // not all of it is kept
	answered bool   // some of it was, since
	moved    time.Time
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		was := c.current()
		n, err := was.Read(p)
		if n > 0 {
			c.noteAnswered(p[:n])
		}
		if n > 0 || err == nil || !c.renew(was, errors.Is(err, syscall.ECONNRESET)) {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.rests() {
		c.gate.pass(c.ctx, c.gone)
		if was := c.current(); c.mayRenew(true) && !c.replace(was) {
			return 0, syscall.ECONNRESET
		}
	}
	was := c.noteSent(p)
	n, err := was.Write(p)
	if err == nil || !c.mayRenew(true) || !c.replace(was) {
		return n, err
	}
	return len(p), nil
}

// CloseWrite ends the client's way.
func (c *conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.ended = true
	return closeWrite(c.current())
}

// closeWrite ends one way of a connection that can, and all of any other.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

func (c *conn) current() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// noteAnswered takes in what the process sends.
func (c *conn) noteAnswered(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent, c.overlong, c.answered, c.moved = nil, false, true, time.Now()
	c.follow.answer(p)
	if c.follow.idle() {
		c.answered = false
		c.gate.settled()
	}
}

// noteSent keeps what is being sent, and returns where to.
func (c *conn) noteSent(p []byte) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follow.request(p)
	switch {
	case c.answered || c.overlong:
	case len(c.sent)+len(p) > maxUnanswered:
		c.sent, c.overlong = nil, true
	default:
		c.sent = append(c.sent, p...)
	}
	return c.conn
}

// rests says that nothing is under way.
func (c *conn) rests() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.restsLocked()
}

func (c *conn) restsLocked() bool { return !c.answered && !c.overlong && len(c.sent) == 0 }

// busy says that the client waits for an answer, and should have it before the process ends.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && c.follow.owed() && (!c.answered || time.Since(c.moved) < streamSilence)
}

// part tells a process that is to end that nothing more comes on this connection, if nothing is under way: it will be the next
// one's.
func (c *conn) part() {
	c.mu.Lock()
	was, rests := c.conn, !c.closed && c.restsLocked() && c.age < c.gate.restarts()
	c.mu.Unlock()
	if rests {
		_ = closeWrite(was) // or it has ended already
	}
}

// mayRenew says whether the next process may have the connection, for who holds writing. reset says that this one has not read
// all that was sent.
func (c *conn) mayRenew(reset bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed || c.failed || c.answered || c.overlong || c.follow.last || c.age >= c.gate.restarts():
		return false
	case c.restsLocked():
		return !c.ended
	}
	return reset || c.follow.safe()
}

// renew replaces a connection that has ended, if it may; true if it is replaced, by this call or by a Write that came first.
func (c *conn) renew(was net.Conn, reset bool) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.current() != was || c.mayRenew(reset) && c.replace(was)
}

// replace connects to the next process, and sends it what is under way, for who holds writing. Where it cannot, the connection
// has ended.
func (c *conn) replace(was net.Conn) bool {
	relay.Reset(was) // its addresses are the next one's
	next, age, err := c.dial()
	if err == nil {
		if err = c.repeat(next); err != nil {
			relay.Reset(next)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.failed = true
		return false
	case c.closed:
		relay.Reset(next)
		return false
	}
	c.conn, c.age = next, age
	return true
}

// repeat sends the next process what is under way, for who holds writing.
func (c *conn) repeat(next net.Conn) error {
	c.mu.Lock()
	sent := c.sent
	c.mu.Unlock()
	if len(sent) > 0 {
		if _, err := next.Write(sent); err != nil {
			return err
		}
	}
	if c.ended {
		return closeWrite(next)
	}
	return nil
}

// Reset has the process see a reset.
func (c *conn) Reset() error {
	relay.Reset(c.close())
	return nil
}

// Close implements net.Conn.
func (c *conn) Close() error { return c.close().Close() }

// close keeps a next connection from being made, and returns the one there is.
func (c *conn) close() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.gone)
		c.follow.end()
		c.gate.left(c)
	}
	return c.conn
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.current().LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.current().RemoteAddr() }

// SetDeadline implements net.Conn, for the connection that there is.
func (c *conn) SetDeadline(t time.Time) error { return c.current().SetDeadline(t) }

// SetReadDeadline implements net.Conn, as SetDeadline.
func (c *conn) SetReadDeadline(t time.Time) error { return c.current().SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn, as SetDeadline.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.current().SetWriteDeadline(t) }
