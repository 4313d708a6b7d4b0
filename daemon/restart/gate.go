// Package restart keeps the connections of a process that is ended and started again: who arrives meanwhile waits, and nothing
// that was asked is lost.
//
// A process that ends closes its connections, and nobody can tell from outside whether it has seen what had just arrived on one.
// So a restart begins here, before the process knows of it: what arrives is held back, what it has been asked is waited for, and
// when nothing is under way it may end.
package restart

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// Patience is how long a connection waits for a process that is being restarted: from the moment on that it may end, and
	// again from its next start: `go run` compiles first.
	Patience = 10 * time.Second
	// quietPatience is how long a restart waits for answers. A process that ends gracefully gives those that take longer.
	quietPatience = time.Second
	// streamSilence is when an answer that has begun is no longer waited for: it may be one without an end.
	streamSilence = 100 * time.Millisecond
)

// Gate is what the connections to one process pass. A nil one is for a process that is never restarted. Safe for concurrent
// use.
type Gate struct {
	now   func() time.Time
	ports ports // where it listens

	mu    sync.Mutex
	count int           // of restarts so far
	held  chan struct{} // closed when what is held back may go on; nil: nothing is
	until time.Time     // connections wait until then
	news  chan struct{} // closed and replaced with each change of the above, and when a connection becomes idle
	live  map[*conn]struct{}
}

// New makes a gate that is open.
func New() *Gate {
	return &Gate{now: time.Now, news: make(chan struct{}), live: map[*conn]struct{}{}}
}

// Attach says where the process listens.
func (g *Gate) Attach(at Listens) {
	if g == nil {
		return
	}
	g.ports.attach(at)
}

// Hold is the word that the process is to be restarted: it gets no connection any more, and no request on those it has, until
// Started or, at the latest, until Patience is over. Hold returns when all it was asked is answered, or should not be waited for
// any longer: then the process may be ended. It sees the clients of idle connections go, for which one that ends gracefully may
// wait otherwise.
func (g *Gate) Hold(ctx context.Context) {
	if g == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, quietPatience)
	defer cancel()
	tick := time.NewTicker(streamSilence / 2)
	defer tick.Stop()
	g.mu.Lock()
	if g.held == nil {
		g.held = make(chan struct{})
		g.count++
	}
	g.until = g.now().Add(quietPatience + Patience)
	g.tellLocked()
	g.mu.Unlock()
	for _, c := range g.all() {
		c.warn()
	}
	for {
		g.mu.Lock()
		news := g.news
		g.mu.Unlock()
		busy := false
		for _, c := range g.all() {
			busy = c.part() || busy
		}
		if ctx.Err() != nil || !busy {
			break
		}
		select {
		case <-news:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = g.now().Add(Patience)
}

// Started is the word that the process was started, also the first time.
func (g *Gate) Started() {
	if g == nil {
		return
	}
	g.ports.forget() // before the gate is held: a look at the table may be under way
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == nil { // the first start of all: nobody has served yet
		return
	}
	close(g.held)
	g.held = nil
	g.until = g.now().Add(Patience)
	g.tellLocked()
}

// tellLocked wakes all who wait for a change.
func (g *Gate) tellLocked() {
	close(g.news)
	g.news = make(chan struct{})
}

// all are the connections that there are.
func (g *Gate) all() []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.live))
}

// restarts is how many there were.
func (g *Gate) restarts() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// pass returns when nothing is held back, or it was for too long, or ctx is over, or gone is closed; and how many restarts there
// had been then.
func (g *Gate) pass(ctx context.Context, gone <-chan struct{}) (restarts int) {
	for {
		g.mu.Lock()
		held, left, restarts := g.held, g.until.Sub(g.now()), g.count
		g.mu.Unlock()
		if held == nil || left <= 0 {
			return restarts
		}
		late := time.NewTimer(left)
		select {
		case <-held:
		case <-late.C:
		case <-gone:
		case <-ctx.Done():
		}
		late.Stop()
		select {
		case <-gone:
			return restarts
		default:
		}
		if ctx.Err() != nil {
			return restarts
		}
	}
}

// Dial connects to the process's port by try, and by try again while the process is restarted and refuses; the error is the last
// try's. ctx lasts as long as the connection. Where the process is ended, the connection is given to the next one if nothing is
// lost by it: when nothing is under way on it, or when the process has not read all that is (the kernel resets it then), or, for
// HTTP/1.x, when asking once more changes nothing.
func (g *Gate) Dial(ctx context.Context, port uint16, try func() (net.Conn, error)) (net.Conn, error) {
	if g == nil {
		return try()
	}
	dial := func() (net.Conn, int, error) { return g.dial(ctx, port, try) }
	c, age, err := dial()
	if err != nil {
		return nil, err
	}
	own := &conn{ctx: ctx, gate: g, dial: dial, gone: make(chan struct{}), conn: c, age: age}
	g.mu.Lock()
	g.live[own] = struct{}{}
	g.mu.Unlock()
	own.part() // a restart may have begun meanwhile
	return own, nil
}

// dial returns how many restarts there had been when it connected, too.
func (g *Gate) dial(ctx context.Context, port uint16, try func() (net.Conn, error)) (net.Conn, int, error) {
	for {
		age := g.pass(ctx, nil)
		c, err := try()
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
			return c, age, err
		}
		if !g.awaitPort(ctx, port) {
			return nil, 0, err
		}
	}
}

// awaitPort waits until something listens on a port that has refused a connection; false where that is not to be expected.
func (g *Gate) awaitPort(ctx context.Context, port uint16) bool {
	for again := false; ; again = true {
		g.mu.Lock()
		restarting, news := g.now().Before(g.until), g.news
		g.mu.Unlock()
		switch {
		case !restarting:
			return false
		case again && g.ports.has(port):
			return true
		}
		next := time.NewTimer(look)
		select {
		case <-next.C:
		case <-news:
		case <-ctx.Done():
		}
		next.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// left takes a connection that has ended out of the books.
func (g *Gate) left(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.live, c)
	g.settledLocked()
}

// settled is the word that a connection has become idle.
func (g *Gate) settled() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settledLocked()
}

func (g *Gate) settledLocked() {
	if g.held != nil { // nobody waits for it otherwise
		g.tellLocked()
	}
}
