package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// maxHeld connections wait at the agent at a time.
	maxHeld = 1024
	// holdTime is how long a connection waits at most for somebody to take it.
	holdTime = time.Minute
	// refusedPatience is how long a connection that the local process refuses is offered
	// again where it never listened: it may just be about to.
	refusedPatience = time.Second
	// closedPatience is the same for a port that it did listen on: it may be restarting,
	// or ending: a server that shuts down gracefully has closed its listener seconds before
	// it is gone and the laptop says Hold.
	closedPatience = 20 * time.Second
	// retryPause is the time between two offers at first; it doubles up to retryPauseMax.
	retryPause    = 50 * time.Millisecond
	retryPauseMax = 500 * time.Millisecond
	// originalTimeout bounds the dial of an original pod, which answers or is gone.
	originalTimeout = 2 * time.Second
	// silentOriginals is how many rounds of dials a connection waits for where the original
	// pods, which are Ready, do not answer at all: a NetworkPolicy keeps the target's pods from each
	// other. The client's next connection goes to them without us.
	silentOriginals = 2
	// maxDescribed is how many open connections a log line tells of.
	maxDescribed = 5
)

// mode is where arriving connections go.
//
//	serving ──Hold──▶ holding ──HandOver──▶ handedOver
//	   ▲                 │  ▲                   │
//	   └──SetReady(true)─┴──┼───────────────────┘
//	                        └── serving too while no laptop is connected: nobody takes them
type mode int

const (
	serving    mode = iota // to the laptop, waiting for one if there is none
	holding                // nowhere: they wait
	handedOver             // to the original pods
)

// deliverer is the tunnel's end as the router needs it.
type deliverer interface {
	Deliver(ctx context.Context, conn net.Conn) error
}

// router takes each connection that arrives at one of the target's ports to whoever
// serves it now, and keeps it waiting while nobody does.
type router struct {
	tunnel   deliverer
	log      *slog.Logger
	dial     func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	holdTime time.Duration
	waiting  chan struct{} // a slot for each connection that waits
	private  []uint16      // ports at which the original pods have nothing

	mu        sync.Mutex
	mode      mode
	originals []netip.Addr
	next      int                  // which of the originals is tried first
	changed   chan struct{}        // closed and replaced with each change of mode
	open      map[*client]struct{} // those that somebody has taken
	listened  map[string]bool      // local addresses that the laptop has accepted connections to
	ending    bool                 // the pod ends: clients are asked to come no more
}

func newRouter(t deliverer, log *slog.Logger) *router {
	dialer := &net.Dialer{Timeout: originalTimeout}
	return &router{
		tunnel: t, log: log,
		dial: func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", addr.String())
		},
		holdTime: holdTime,
		waiting:  make(chan struct{}, maxHeld),
		changed:  make(chan struct{}),
		listened: make(map[string]bool),
		open:     make(map[*client]struct{}),
	}
}

// become changes the mode; held connections go where it says.
func (r *router) become(m mode, originals []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.becomeLocked(m, originals)
}

// hold makes connections wait, unless they go to the original pods already: the local
// process ends after those have taken over, too. It reports whether they wait.
func (r *router) hold() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == handedOver {
		return false
	}
	r.becomeLocked(holding, nil)
	return true
}

func (r *router) becomeLocked(m mode, originals []netip.Addr) {
	r.mode, r.originals = m, slices.Clone(originals)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *router) state() (mode, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode, r.changed
}

// situation is state with the original pods.
func (r *router) situation() (mode, []netip.Addr, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode, r.originals, r.changed
}

// admit takes a slot for a connection that arrived; false if it must be turned away.
// While the laptop serves, a full house only delays the next accept: connections leave
// it as fast as the laptop takes them.
func (r *router) admit(ctx context.Context) bool {
	for {
		select {
		case r.waiting <- struct{}{}:
			return true
		default:
		}
		m, changed := r.state()
		if m == holding {
			return false
		}
		select {
		case r.waiting <- struct{}{}:
			return true
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// route serves one admitted connection to its end. It resets what nobody takes.
func (r *router) route(ctx context.Context, conn net.Conn) {
	c := newClient(conn)
	for {
		taken, err := r.routeOnce(ctx, c)
		if err == nil && !taken {
			return
		}
		if err == nil {
			// The local process dropped it without an answer. If it has stopped listening, the
			// connection was in its listener's queue: somebody else may take it.
			select {
			case r.waiting <- struct{}{}:
				continue
			default:
				err = errors.New("the local process reset it, and too many wait")
			}
		}
		r.log.Info("reset a connection that nobody takes", "from", c.RemoteAddr().String(), "to", c.LocalAddr().String(), "error", err)
		relay.Reset(c)
		return
	}
}

// routeOnce has one server serve the connection to its end. again is true where the
// connection was given back and can be served by another.
func (r *router) routeOnce(ctx context.Context, c *client) (again bool, err error) {
	waitCtx, cancel := context.WithTimeout(ctx, r.holdTime)
	defer cancel()
	over := c.done()
	original, err := r.place(waitCtx, c)
	if err == nil {
		r.setOpen(c, true)
		defer r.setOpen(c, false)
	}
	<-r.waiting
	switch {
	case err != nil:
		return false, err
	case original != nil:
		r.relay(ctx, c, original)
		return false, nil
	}
	<-over // the tunnel closes it, at the latest when it is closed itself
	return c.renew(), nil
}

// errAborted ends a connection that the process reset although it still listens: it may
// have read what the client sent, and nobody may be given that a second time.
var errAborted = errors.New("the local process reset it")

// errPrivate ends a connection to a port that was the local process's alone.
var errPrivate = errors.New("the original pods have nothing at this port")

// place finds who takes conn: an original pod, whose connection it returns, or nil: the
// laptop has taken it. One that was taken back is not given to the local process again;
// the process is only asked whether it still listens.
func (r *router) place(ctx context.Context, conn *client) (net.Conn, error) {
	var refused time.Time // first
	silent := 0
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		m, changed := r.state()
		var err error
		switch m {
		case serving:
			offered := net.Conn(conn)
			if conn.wasTakenBack() {
				offered = inquiry{conn}
			}
			err = r.deliver(ctx, changed, offered)
			if err == nil && offered != net.Conn(conn) {
				return nil, errAborted
			}
			if err == nil {
				return nil, nil
			}
		case handedOver:
			if port, err := portOf(conn.LocalAddr()); err != nil || slices.Contains(r.private, port) {
				return nil, errPrivate
			}
			var original net.Conn
			if original, err = r.dialOriginal(ctx, conn); err == nil {
				return original, nil
			}
			if silence := net.Error(nil); errors.As(err, &silence) && silence.Timeout() {
				silent++
			}
		}
		switch {
		case silent >= silentOriginals:
			return nil, fmt.Errorf("%w (does a NetworkPolicy keep the target's pods from each other?)", err)
		case !errors.Is(err, tunnel.ErrRefused):
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > r.patience(conn):
			return nil, err
		}
		if werr := await(ctx, m, changed, wait); werr != nil {
			if err == nil {
				err = errors.New("held too long")
			}
			return nil, fmt.Errorf("%w (%w)", err, werr)
		}
	}
}

// patience is how long a refused connection is offered again.
func (r *router) patience(conn net.Conn) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listened[conn.LocalAddr().String()] {
		return closedPatience
	}
	return refusedPatience
}

// await waits before the next try: for another mode, or a moment where trying again
// in this one is of use.
func await(ctx context.Context, m mode, changed <-chan struct{}, wait time.Duration) error {
	var again <-chan time.Time
	if m != holding {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-changed:
	case <-again:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// deliver offers conn to the laptop until it takes it, or the mode changes.
func (r *router) deliver(ctx context.Context, changed <-chan struct{}, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	delivered := make(chan error, 1)
	go func() { delivered <- r.tunnel.Deliver(ctx, conn) }()
	var err error
	select {
	case err = <-delivered:
	case <-changed:
		cancel() // if the laptop is being asked already, its answer still counts
		err = <-delivered
	}
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.listened[conn.LocalAddr().String()] = true
	}
	return err
}

// dialOriginal connects to the port of one of the original pods that conn came to.
func (r *router) dialOriginal(ctx context.Context, conn net.Conn) (net.Conn, error) {
	port, err := portOf(conn.LocalAddr())
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	originals, first := r.originals, r.next
	r.next++
	r.mu.Unlock()
	err = errors.New("no pod to hand over to")
	for i := range originals {
		addr := netip.AddrPortFrom(originals[(first+i)%len(originals)], port)
		original, derr := r.dial(ctx, addr)
		if derr == nil {
			return original, nil
		}
		err = fmt.Errorf("hand over to %s: %w", addr, derr)
	}
	return nil, err
}

// relay carries a handed over connection to its end, or ctx's.
func (r *router) relay(ctx context.Context, conn, original net.Conn) {
	stop := context.AfterFunc(ctx, func() { relay.Reset(conn); relay.Reset(original) })
	defer stop()
	if err := relay.Relay(conn, original); err != nil {
		r.log.Debug("handed over connection ended", "from", conn.RemoteAddr(), "error", err)
	}
}

func (r *router) setOpen(c *client, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if open {
		r.open[c] = struct{}{}
		if r.ending {
			c.end()
		}
	} else {
		delete(r.open, c)
	}
}

// load is how many connections wait or are served.
func (r *router) load() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open) + len(r.waiting)
}

// describe says in a log line what keeps a drain from ending.
func (r *router) describe(now time.Time) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := []string{fmt.Sprintf("%d wait", len(r.waiting))}
	for c := range r.open {
		if lines = append(lines, c.describe(now)); len(lines) > maxDescribed {
			break
		}
	}
	return lines
}

// end lets the next answer on each connection be its last, as far as the protocol has a word for it.
func (r *router) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
	for c := range r.open {
		c.end()
	}
}

// leaveIdle ends the connections that are served and idle.
func (r *router) leaveIdle(now time.Time, silence time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		c.leaveIfIdle(now, silence)
	}
}

func portOf(a net.Addr) (uint16, error) {
	_, text, err := net.SplitHostPort(a.String())
	if err != nil {
		return 0, fmt.Errorf("port of %s: %w", a, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port of %s: %w", a, err)
	}
	return uint16(port), nil
}
