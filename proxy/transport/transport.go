// Package transport chooses, among several ways to reach the same peer, the first that
// leads to it. It knows neither Kubernetes nor what travels on the connection.
package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// defaultTimeout bounds one way's dial and handshake together.
	defaultTimeout = 10 * time.Second
	// headStart is what a way gets before the next is tried beside it (RFC 8305 calls
	// this the connection attempt delay; 250 ms there, for the whole internet).
	headStart = 150 * time.Millisecond
	// preference is how long a connection of a later way waits for an earlier one that is
	// under way: the order is one of quality, and the tunnel stays on what it gets.
	preference = 100 * time.Millisecond
	// refusedPatience is how long a pod that refuses is given to begin to listen, refusedPause how often it is asked. Longer
	// would hold up who has a firewall there that refuses in the pod's place.
	refusedPatience = 500 * time.Millisecond
	refusedPause    = 20 * time.Millisecond
)

// Way is one way to the peer.
type Way struct {
	// Name is shown to people: pod-ip, pod-proxy, port-forward-websocket …
	Name string
	// Dial makes a raw connection.
	Dial func(context.Context) (net.Conn, error)
	// Timeout bounds dial and handshake together; 0 means 10 s.
	Timeout time.Duration
	// HeadStart is how long this way is given before the next is tried beside it; 0 means
	// 150 ms. A way that answers at once or not at all needs less.
	HeadStart time.Duration
}

func (w Way) headStart() time.Duration {
	if w.HeadStart <= 0 {
		return headStart
	}
	return w.HeadStart
}

// PodIP is the way straight to the pod's address.
func PodIP(addr netip.AddrPort) Way {
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr.String()) // Go sets TCP_NODELAY itself
	}
	return Way{
		Name: "pod-ip",
		Dial: func(ctx context.Context) (net.Conn, error) { return whenListening(ctx, dial) },
		// Inside the cluster's network it answers in a few ms; outside, mostly nothing does.
		Timeout:   2 * time.Second,
		HeadStart: 30 * time.Millisecond,
	}
}

// whenListening dials again for a moment while it is refused: the pod itself says so, which is near, and has just been started. A
// worse way, which comes later, would find it listening and keep the tunnel.
func whenListening(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	over := time.NewTimer(refusedPatience)
	defer over.Stop()
	for {
		conn, err := dial(ctx)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return conn, err
		}
		select {
		case <-time.After(refusedPause):
		case <-over.C:
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Ladder is the ways in order of preference. Its fields are not changed after the first
// Dial; its methods are safe for concurrent use.
type Ladder struct {
	Ways []Way
	// Handshake proves that the peer is at the other end and returns the connection to
	// use; it closes the raw one where it fails. A way whose handshake fails has failed.
	Handshake func(context.Context, net.Conn) (net.Conn, error)
	// Logger; nil discards.
	Logger *slog.Logger

	mu     sync.Mutex
	chosen string
}

// Chosen is the name of the way that worked last, empty before the first.
func (l *Ladder) Chosen() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chosen
}

// Dial connects by the first way that leads to the peer: the one that worked last
// before the others, each next one starting when the one before failed or has been
// slow. When all have failed the error names each with its reason; errors.Is and As
// find them all.
func (l *Ladder) Dial(ctx context.Context) (net.Conn, error) {
	ways := Preferring(l.Chosen(), l.Ways)
	if len(ways) == 0 {
		return nil, errors.New("no way to the peer is known")
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &race{
		ladder: l, ways: ways,
		results: make(chan result, len(ways)),
		errs:    make([]error, len(ways)),
		best:    -1,
	}
	conn, name, err := r.run(ctx)
	cancel() // ends the ways under way
	r.finish()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chosen = name
	return conn, nil
}

// Preferring returns the ways with the one of that name in front, and the others in their order.
func Preferring(name string, ways []Way) []Way {
	ways = slices.Clone(ways)
	slices.SortStableFunc(ways, func(a, b Way) int {
		switch {
		case a.Name == name && b.Name != name:
			return -1
		case b.Name == name && a.Name != name:
			return 1
		}
		return 0
	})
	return ways
}

func (l *Ladder) log() *slog.Logger {
	if l.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l.Logger
}

// climb tries one way to its end.
func (l *Ladder) climb(ctx context.Context, way Way) (net.Conn, error) {
	timeout := way.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	conn, err := way.Dial(ctx)
	if err == nil && l.Handshake != nil {
		conn, err = l.Handshake(ctx, conn)
	}
	if err == nil {
		return conn, nil
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, err
}

// result is how one way ended.
type result struct {
	way  int
	conn net.Conn
	err  error
}

// race is one Dial.
type race struct {
	ladder  *Ladder
	ways    []Way
	results chan result // capacity: one for each way

	mu   sync.Mutex
	over bool // a way that ends from now on closes its connection itself

	started int
	errs    []error // of the ways that failed
	best    int     // the way of conn; -1: none yet
	conn    net.Conn
}

// run starts the ways one after the other and returns the connection to use.
func (r *race) run(ctx context.Context) (net.Conn, string, error) {
	r.start(ctx)
	failed := 0
	timer := time.NewTimer(r.ways[0].headStart())
	defer timer.Stop()
	for {
		select {
		case res := <-r.results:
			if res.err != nil {
				failed++
				r.errs[res.way] = res.err
				r.ladder.log().Debug("way failed", "way", r.ways[res.way].Name, "error", res.err)
			} else {
				r.keep(res)
			}
			if r.decided() {
				return r.take()
			}
			switch {
			case r.best >= 0:
				timer.Reset(r.grace())
			case failed == len(r.ways):
				return nil, "", r.failure()
			case r.started < len(r.ways) && res.err != nil:
				r.start(ctx)
				timer.Reset(r.ways[r.started-1].headStart())
			}
		case <-timer.C:
			if r.best >= 0 {
				return r.take()
			}
			if r.started < len(r.ways) {
				r.start(ctx)
				timer.Reset(r.ways[r.started-1].headStart())
			}
		case <-ctx.Done():
			return nil, "", fmt.Errorf("dial the peer: %w", context.Cause(ctx))
		}
	}
}

// grace is how long the best connection waits for one by an earlier way.
func (r *race) grace() time.Duration {
	var longest time.Duration
	for i := range r.best {
		if r.errs[i] == nil {
			longest = max(longest, min(preference, r.ways[i].headStart()))
		}
	}
	return longest
}

// start begins the next way, in a goroutine that ends when the way's dial and handshake
// do: at the latest when ctx does, which Dial does not wait for.
func (r *race) start(ctx context.Context) {
	i := r.started
	r.started++
	go func() {
		conn, err := r.ladder.climb(ctx, r.ways[i])
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.over {
			r.results <- result{way: i, conn: conn, err: err}
		} else if conn != nil {
			_ = conn.Close()
		}
	}()
}

// keep holds the connection of the most preferred way so far, and closes the other.
func (r *race) keep(res result) {
	if r.best >= 0 && r.best < res.way {
		_ = res.conn.Close()
		return
	}
	if r.conn != nil {
		_ = r.conn.Close()
	}
	r.best, r.conn = res.way, res.conn
}

// decided reports whether no way before the best one can still come.
func (r *race) decided() bool {
	if r.best < 0 {
		return false
	}
	for i := range r.best {
		if r.errs[i] == nil {
			return false
		}
	}
	return true
}

func (r *race) take() (net.Conn, string, error) {
	conn := r.conn
	r.conn = nil
	r.ladder.log().Debug("way taken", "way", r.ways[r.best].Name)
	return conn, r.ways[r.best].Name, nil
}

// finish closes what came too late.
func (r *race) finish() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	close(r.results)
	for res := range r.results {
		if res.conn != nil {
			_ = res.conn.Close()
		}
	}
	if r.conn != nil {
		_ = r.conn.Close()
	}
}

func (r *race) failure() error {
	f := &Failure{}
	for i, w := range r.ways {
		f.Ways = append(f.Ways, WayError{Way: w.Name, Err: r.errs[i]})
	}
	return f
}

// Failure is Dial's error when no way led to the peer.
type Failure struct{ Ways []WayError }

// WayError is why one way did not.
type WayError struct {
	Way string
	Err error
}

// Error names each way with its reason.
func (f *Failure) Error() string {
	parts := make([]string, len(f.Ways))
	for i, w := range f.Ways {
		parts[i] = fmt.Sprintf("%s: %v", w.Way, w.Err)
	}
	return "no way leads to the peer: " + strings.Join(parts, "; ")
}

// Unwrap returns the reasons.
func (f *Failure) Unwrap() []error {
	errs := make([]error, len(f.Ways))
	for i, w := range f.Ways {
		errs[i] = w.Err
	}
	return errs
}
