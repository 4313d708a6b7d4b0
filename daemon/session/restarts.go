package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// restartPatience is how long a connection waits for a process that is being restarted, from the first sign of its end on,
	// and again from its next start: `go run` compiles first. The agent's own patience comes after that.
	restartPatience = 10 * time.Second
	// restartWord is how long the word of a restart may come after its first effect, a connection that is refused or reset:
	// both are on their way at the same time.
	restartWord = 500 * time.Millisecond
	// restartLook is how often it is looked whether the process listens again.
	restartLook = 20 * time.Millisecond
)

// restarts keeps the connections of a process that is started again in its sandbox waiting. A nil one is of a process that
// never is. Safe for concurrent use.
type restarts struct {
	now func() time.Time

	mu     sync.Mutex
	count  int           // of restarts so far
	until  time.Time     // connections wait until then
	news   chan struct{} // closed and replaced with each word of a restart
	at     listens       // the sandbox; nil: not yet
	looked time.Time     // when ports was read
	ports  map[uint16]struct{}
}

// newRestarts is nil where none are to come.
func newRestarts(wanted bool) *restarts {
	if !wanted {
		return nil
	}
	return &restarts{now: time.Now, news: make(chan struct{})}
}

// noteRestarting is the word that the process is being ended to be started again.
func (r *restarts) noteRestarting() { r.note(1) }

// noteStarted is the word that it was started.
func (r *restarts) noteStarted() { r.note(0) }

func (r *restarts) note(restarts int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count += restarts
	if r.count == 0 { // the first start of all: nobody has served yet
		return
	}
	r.until = r.now().Add(restartPatience)
	close(r.news)
	r.news = make(chan struct{})
}

// attach says where the process listens.
func (r *restarts) attach(at listens) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = at
}

// begun is how many restarts there were.
func (r *restarts) begun() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// dial tries, and tries again while the process is restarted and refuses: its error is the last try's.
func (r *restarts) dial(ctx context.Context, port uint16, try func() (net.Conn, error)) (net.Conn, error) {
	if r == nil {
		return try()
	}
	for arrived := r.now(); ; {
		c, err := try()
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
			return c, err
		}
		if !r.awaitPort(ctx, arrived, port) {
			return nil, err
		}
	}
}

// awaitPort waits until something listens on a port that has refused a connection; false where that is not to be expected.
func (r *restarts) awaitPort(ctx context.Context, arrived time.Time, port uint16) bool {
	for again := false; ; again = true {
		now := r.now()
		r.mu.Lock()
		until, news := r.until, r.news
		r.mu.Unlock()
		restarting := now.Before(until)
		switch {
		case restarting && again && r.listensOn(port):
			return true
		case !restarting && now.Sub(arrived) >= restartWord:
			return false
		}
		look := time.NewTimer(restartLook)
		select {
		case <-look.C:
		case <-news:
		case <-ctx.Done():
		}
		look.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// awaitWord waits for a restart beyond those that were known; false where none comes.
func (r *restarts) awaitWord(ctx context.Context, known int) bool {
	late := time.NewTimer(restartWord)
	defer late.Stop()
	for {
		r.mu.Lock()
		count, news := r.count, r.news
		r.mu.Unlock()
		if count > known {
			return true
		}
		select {
		case <-news:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// listensOn tells whether something in the sandbox listens on a port. However many ask, the sandbox's table is read once
// each restartLook.
func (r *restarts) listensOn(port uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		return false
	}
	if now := r.now(); r.ports == nil || now.Sub(r.looked) >= restartLook {
		sockets, err := r.at.Listening()
		if err != nil {
			return false
		}
		r.looked, r.ports = now, map[uint16]struct{}{}
		for _, s := range sockets {
			if strings.HasPrefix(s.Network, "tcp") {
				r.ports[s.Addr.Port()] = struct{}{}
			}
		}
	}
	_, does := r.ports[port]
	return does
}

// patiently serves by a process that may be restarted.
type patiently struct {
	served
	restarts *restarts
}

// patient has connections wait while the process is restarted; a nil r changes nothing.
func patient(to served, r *restarts) served {
	if r == nil {
		return to
	}
	r.attach(to)
	return patiently{to, r}
}

// DialTCP implements served. Where the process closes its port with the connection still in its queue, the next process gets
// it: ctx lasts as long as the connection.
func (p patiently) DialTCP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	dial := func() (net.Conn, error) {
		return p.restarts.dial(ctx, local.Port(), func() (net.Conn, error) { return p.served.DialTCP(ctx, client, local) })
	}
	begun := p.restarts.begun()
	c, err := dial()
	if err != nil {
		return nil, err
	}
	return newRenewable(c, dial, func() bool { return p.restarts.awaitWord(ctx, begun) }), nil
}
