package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/http2"
)

const (
	// maxReplay is how much of what a client has sent is kept until the first answer, to
	// be sent again where the local process never took it.
	maxReplay = 64 << 10
	// farewell is how long a client has to close an idle connection after the agent did.
	farewell = 500 * time.Millisecond
)

// client is a connection that came to one of the target's ports. On the way of its
// bytes it watches two things: whether the client is owed an answer, so that a drain
// can tell an idle connection from one at work; and whether the client has had any
// answer at all, so that a connection that the local process dropped unseen can be
// given to somebody else.
//
// That is so when a listener is closed: the kernel resets the connections that it had
// accepted and the process had not. A process that aborts a connection whose bytes it
// has read looks the same from here, but for its listener, which is still open: hence
// the inquiry.
type client struct {
	net.Conn

	readMu sync.Mutex // held by the one Read

	mu        sync.Mutex
	last      time.Time // when bytes last went either way
	owed      bool      // the last ones came from the client
	streams   http2.Streams
	recording bool // nothing was answered, and all that was sent is in sent
	sent      []byte
	replay    []byte        // what Read returns first
	renewed   bool          // it was taken back once: not again
	taken     bool          // it was taken back, and whoever had it lets go
	leaving   bool          // it was idle in a drain: the next silence is its end
	left      time.Time     // when leaving began
	writing   int           // answers that the client's end has not taken yet
	ending    bool          // the next answer is to be the last
	goneAway  bool          // and a client of HTTP/2 was told so
	over      chan struct{} // closed when whoever had it has closed it, or has let go
	overOnce  *sync.Once
}

func newClient(conn net.Conn) *client {
	return &client{
		Conn: conn, last: time.Now(), recording: true,
		over: make(chan struct{}), overOnce: new(sync.Once),
	}
}

// Read reads what the client sends.
func (c *client) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.mu.Lock()
	taken, n := c.taken, copy(p, c.replay)
	c.replay = c.replay[n:]
	c.mu.Unlock()
	if taken {
		return 0, net.ErrClosed
	}
	if n > 0 {
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 {
		c.noteSent(p[:n])
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		switch {
		case c.taken:
			err = net.ErrClosed
		case c.leaving:
			err = io.EOF
		}
	}
	return n, err
}

// noteSent notes bytes from the client; the caller holds mu.
func (c *client) noteSent(p []byte) {
	c.last, c.owed = time.Now(), true
	c.streams.Request(p)
	switch {
	case !c.recording:
	case len(c.sent)+len(p) > maxReplay:
		c.recording, c.sent = false, nil
	default:
		c.sent = append(c.sent, p...)
	}
}

func (c *client) noteAnswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteAnsweredLocked()
}

func (c *client) noteAnsweredLocked() {
	c.last, c.owed = time.Now(), false
	c.recording, c.sent = false, nil
}

// beginAnswer notes that bytes of an answer come, and tells whether they begin one that is to be the last, and what goes to the
// client before them. endAnswer notes that they are written. Each answer passes both: they allocate nothing.
func (c *client) beginAnswer(b ...[]byte) (last bool, before []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending && !c.goneAway && c.streams.May() {
		c.goneAway, before = true, http2.GoAway(http2.MaxStream)
	}
	for _, p := range b {
		c.streams.Answer(p)
	}
	last = c.ending && c.owed && !c.streams.Spoken()
	c.noteAnsweredLocked()
	c.writing++
	return last, before
}

func (c *client) endAnswer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing--
	c.last = time.Now()
}

// Write answers the client.
func (c *client) Write(p []byte) (int, error) {
	last, before := c.beginAnswer(p)
	defer c.endAnswer()
	if !last && before == nil {
		return c.Conn.Write(p)
	}
	b, extra := ended(net.Buffers{p}, last, before)
	n, err := b.WriteTo(c.Conn)
	if err != nil {
		return max(int(n)-extra, 0), err
	}
	return len(p), nil
}

// WriteBuffers answers with one system call.
func (c *client) WriteBuffers(b *net.Buffers) (int64, error) {
	last, before := c.beginAnswer(*b...)
	defer c.endAnswer()
	if !last && before == nil {
		return b.WriteTo(c.Conn)
	}
	changed, extra := ended(*b, last, before)
	*b = nil // whatever comes of it: it is not written again
	n, err := changed.WriteTo(c.Conn)
	return max(n-int64(extra), 0), err
}

// ended is an answer with the word in it, or before it, that the connection ends, and how many bytes that adds.
func ended(b net.Buffers, last bool, before []byte) (_ net.Buffers, extra int) {
	if last {
		return withCloseField(b)
	}
	return append(net.Buffers{before}, b...), len(before)
}

// end makes the next answer the last, where the client speaks HTTP/1.1; one of HTTP/2 is told before the next to begin nothing more.
func (c *client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
}

// CloseWrite ends the answer.
func (c *client) CloseWrite() error {
	c.noteAnswered()
	return c.closeWrite()
}

func (c *client) closeWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// SetLinger is *net.TCPConn's, and what precedes a reset.
func (c *client) SetLinger(seconds int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok && !c.taken {
		return tcp.SetLinger(seconds)
	}
	return nil
}

// Close closes the connection, or lets go of it after TakeBack.
func (c *client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.overOnce.Do(func() { close(c.over) })
	if c.taken {
		return nil
	}
	return c.Conn.Close()
}

// TakeBack tells whoever carries the connection's bytes to let go of it instead of
// passing on a reset by the local process: true if the process cannot have seen it.
func (c *client) TakeBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.recording || c.renewed || c.taken {
		return false
	}
	c.taken = true
	_ = c.SetReadDeadline(time.Unix(1, 0)) // ends a Read under way
	return true
}

// renew makes a connection that was taken back as good as new, once it was let go;
// false if it was not taken back: it is closed.
func (c *client) renew() bool {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.taken {
		return false
	}
	c.taken, c.renewed = false, true
	c.replay = c.sent
	c.over, c.overOnce = make(chan struct{}), new(sync.Once)
	return c.SetReadDeadline(time.Time{}) == nil
}

// wasTakenBack tells whether somebody has had the connection and let go of it.
func (c *client) wasTakenBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

// done returns the channel that is closed when whoever has the connection is done.
func (c *client) done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// leaveIfIdle ends the connection as a server that shuts down does, if no answer is owed
// and nothing has moved for a while. One whose other end has not followed by twice the
// farewell is closed: nobody reads there any more.
func (c *client) leaveIfIdle(now time.Time, silence time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving && now.Sub(c.left) > 2*farewell && now.Sub(c.last) > 2*farewell && c.writing == 0 {
		c.overOnce.Do(func() { close(c.over) })
		_ = c.Conn.Close()
		return
	}
	owed := c.owed
	if c.streams.Spoken() { // who says something need not ask
		owed, _ = c.streams.Owed()
	}
	if owed || c.taken || c.leaving || c.writing > 0 || now.Sub(c.last) < silence {
		return
	}
	c.leaving, c.left = true, now
	_ = c.closeWrite()
	_ = c.SetReadDeadline(now.Add(farewell))
}

// describe says in a log line what the connection waits for.
func (c *client) describe(now time.Time) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%s to %s silent=%s owed=%t writing=%d leaving=%t taken=%t renewed=%t", c.RemoteAddr(), c.LocalAddr(),
		now.Sub(c.last).Round(time.Millisecond), c.owed, c.writing, c.leaving, c.taken, c.renewed)
}

// inquiry is a connection from a client's address that carries nothing: the answer is
// whether it is accepted. It is reset at once.
type inquiry struct{ *client }

func (q inquiry) Read([]byte) (int, error)    { return 0, syscall.ECONNRESET }
func (q inquiry) Write(p []byte) (int, error) { return len(p), nil }
func (q inquiry) WriteBuffers(b *net.Buffers) (n int64, err error) {
	for _, p := range *b {
		n += int64(len(p))
	}
	*b = nil
	return n, nil
}
func (q inquiry) CloseWrite() error   { return nil }
func (q inquiry) SetLinger(int) error { return nil }
func (q inquiry) Close() error        { return nil }
func (q inquiry) TakeBack() bool      { return false }
