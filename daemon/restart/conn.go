package restart

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/http2"
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
	deadline time.Time // of reading
	woken    bool      // reading was interrupted, to have news told
	news     []byte    // of ours, for the client of HTTP/2
	parted   bool      // the process was told that nothing more comes
	tellable bool      // they may be told now
	later    []byte    // of the process, after the news; it ends amid a frame
	refusing bool      // what the client begins is not passed on: it was told so
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		if n := c.told(p); n > 0 {
			return n, nil
		}
		was := c.current()
		n, err := was.Read(p)
		if n > 0 {
			if n = c.noteAnswered(p[:n]); n > 0 {
				return n, nil
			}
			continue
		}
		if err == nil || !c.awoken(was, err) && !c.tells() && !c.renew(was, errors.Is(err, syscall.ECONNRESET)) {
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
	if was == nil {
		return len(p), nil
	}
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

// noteAnswered takes in what the process sends, and returns how much of it goes on at once.
func (c *conn) noteAnswered(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent, c.overlong, c.answered, c.moved = nil, false, true, time.Now()
	place := c.follow.answer(p)
	c.tellable = place == len(p)
	if c.follow.idle() {
		c.answered = false
	}
	c.gate.settled()
	if len(c.news) == 0 || place < 0 {
		return len(p)
	}
	c.later, c.tellable = slices.Clone(p[place:]), true
	return place
}

// told is what goes to the client before anything that is still to be read.
func (c *conn) told(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tellable && len(c.news) > 0 {
		n := copy(p, c.news)
		c.news = c.news[n:]
		return n
	}
	n := copy(p, c.later)
	c.later = c.later[n:]
	c.tellable = c.tellable && n == 0
	return n
}

// tells says that there are news which may be told now.
func (c *conn) tells() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.news) > 0 && c.tellable
}

// tell has the client told something as soon as nothing else is under way.
func (c *conn) tellLocked(news []byte) {
	c.news, c.woken = append(c.news, news...), true
	_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // one that has ended needs no waking
}

// awoken says that reading has ended for the news only.
func (c *conn) awoken(was net.Conn, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.woken || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.woken = false
	return was.SetReadDeadline(c.deadline) == nil
}

// noteSent keeps what is being sent, and returns where to; nil: to nobody.
func (c *conn) noteSent(p []byte) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusing {
		return nil
	}
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

// warn tells a client of HTTP/2 to begin nothing more on this connection.
func (c *conn) warn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.follow.http2.Spoken() && c.answered && !c.closed && c.age < c.gate.restarts() {
		c.tellLocked(http2.GoAway(http2.MaxStream))
	}
}

// part tells a process that is to end that nothing more comes on this connection, if nothing is under way: it will be the next
// one's, or a client of HTTP/2 is told what was not served on it. It returns whether there is something under way that should be
// waited for.
func (c *conn) part() (busy bool) {
	c.mu.Lock()
	was, leave := c.conn, false
	owed, begun := c.follow.owed()
	switch {
	case c.closed || c.parted || c.age >= c.gate.restarts():
	case owed:
		busy = !begun || time.Since(c.moved) < streamSilence
	case !c.follow.http2.Spoken():
		leave = c.restsLocked()
	case c.answered:
		leave, c.refusing = true, true
		c.tellLocked(http2.GoAway(c.follow.http2.Last()))
	}
	c.parted = c.parted || leave
	c.mu.Unlock()
	if leave {
		_ = closeWrite(was) // or it has ended already
	}
	return busy
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
	c.conn, c.age, c.parted = next, age, false
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
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn, as SetDeadline.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.woken { // it is set when that was heard
		return nil
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn, as SetDeadline.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.current().SetWriteDeadline(t) }
