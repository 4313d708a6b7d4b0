package session

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/relay"
)

// maxUnanswered is how much of what a client has sent is kept until the first answer, as the agent keeps it.
const maxUnanswered = 64 << 10

// renewable is a connection to a process that may be restarted. When a process closes its port the kernel resets the
// connections in the listener's queue, which the process has not seen: the next process gets them, with all that the client
// has sent. One that got an answer, or was ended in order, is that process's own. A process that aborts a connection of which it
// has read only a part looks the same from here; only a restart makes one be taken for the other.
type renewable struct {
	// dial opens the connection to the next process. restarted waits for the word that there is to be one.
	dial      func() (net.Conn, error)
	restarted func() bool

	writing sync.Mutex // held while something is sent, so that the next process gets it in order
	ended   bool       // the client sends no more; guarded by writing

	mu        sync.Mutex
	conn      net.Conn
	closed    bool
	recording bool // nothing was answered, and all that was sent is in sent
	sent      []byte
}

func newRenewable(c net.Conn, dial func() (net.Conn, error), restarted func() bool) *renewable {
	return &renewable{conn: c, dial: dial, restarted: restarted, recording: true}
}

func (r *renewable) current() net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn
}

// Read implements net.Conn.
func (r *renewable) Read(p []byte) (int, error) {
	for {
		c := r.current()
		n, err := c.Read(p)
		switch {
		case n > 0 || err == nil:
			r.noteAnswered()
			return n, err
		case errors.Is(err, io.EOF) && r.current() == c:
			r.noteAnswered()
			return n, err
		case !r.renew(c, errors.Is(err, syscall.ECONNRESET)):
			return n, err
		}
	}
}

// noteAnswered makes the connection this process's own.
func (r *renewable) noteAnswered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recording, r.sent = false, nil
}

// Write implements net.Conn.
func (r *renewable) Write(p []byte) (int, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	c := r.noteSent(p)
	n, err := c.Write(p)
	if err == nil || !r.renewWriting(c) {
		return n, err
	}
	return len(p), nil
}

// noteSent keeps what is being sent, and returns where to.
func (r *renewable) noteSent(p []byte) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.recording:
	case len(r.sent)+len(p) > maxUnanswered:
		r.recording, r.sent = false, nil
	default:
		r.sent = append(r.sent, p...)
	}
	return r.conn
}

// renew replaces a connection that was reset, if it may; true if it is replaced, by this call or by a Write that was told first.
func (r *renewable) renew(was net.Conn, reset bool) bool {
	r.writing.Lock()
	defer r.writing.Unlock()
	return r.current() != was || reset && r.renewWriting(was)
}

// renewWriting replaces a connection that was reset, for who holds writing. It happens once: a second reset is passed on.
func (r *renewable) renewWriting(was net.Conn) bool {
	r.mu.Lock()
	may, sent := r.recording && !r.closed, r.sent
	r.recording, r.sent = false, nil
	r.mu.Unlock()
	if !may || !r.restarted() {
		return false
	}
	_ = was.Close() // its addresses are the next one's
	c, err := r.dial()
	if err != nil {
		return false
	}
	if _, err = c.Write(sent); err == nil && r.ended {
		err = closeWrite(c)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || r.closed {
		relay.Reset(c)
		return false
	}
	r.conn = c
	return true
}

// CloseWrite ends the client's way.
func (r *renewable) CloseWrite() error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.ended = true
	return closeWrite(r.current())
}

// closeWrite ends one way of a connection that can, and all of any other.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Reset has the process see a reset.
func (r *renewable) Reset() error {
	relay.Reset(r.close())
	return nil
}

// Close implements net.Conn.
func (r *renewable) Close() error { return r.close().Close() }

// close keeps a next connection from being made, and returns the one there is.
func (r *renewable) close() net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.conn
}

// LocalAddr implements net.Conn.
func (r *renewable) LocalAddr() net.Addr { return r.current().LocalAddr() }

// RemoteAddr implements net.Conn.
func (r *renewable) RemoteAddr() net.Addr { return r.current().RemoteAddr() }

// SetDeadline implements net.Conn, for the connection that there is.
func (r *renewable) SetDeadline(t time.Time) error { return r.current().SetDeadline(t) }

// SetReadDeadline implements net.Conn, as SetDeadline.
func (r *renewable) SetReadDeadline(t time.Time) error { return r.current().SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn, as SetDeadline.
func (r *renewable) SetWriteDeadline(t time.Time) error { return r.current().SetWriteDeadline(t) }
