package ports

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/entrance"
)

const (
	// dialPatience is how long a connection waits for its destination: a pod that is started again, a tunnel that is dialled
	// again.
	dialPatience = 30 * time.Second
	// firstPause and lastPause are the times between tries.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
	// askPatience bounds one question where a destination is, and tryPatience one try to connect there.
	askPatience = 5 * time.Second
	tryPatience = 10 * time.Second
	// followEvery is how often a flow of datagrams looks whether its pod is still the one: no datagram tells.
	followEvery = 2 * time.Second
)

// Destination is something in the cluster that listens; *kube.Destination is one.
type Destination interface {
	// Addresses are where it listens now: HOST:PORT, the best first.
	Addresses(ctx context.Context) ([]string, error)
	// Lasting says that the addresses stay, whatever becomes of its pods.
	Lasting() bool
	// Port is its own.
	Port() uint16
	String() string
}

// Forward is a port of this machine that leads to a destination.
type Forward struct {
	To  Destination
	At  netip.AddrPort // port 0: any that is free
	UDP bool
}

// Forwards are ports of this machine that are taken, and from Serve on forwarded. Each connection is dialled to where its destination is
// then: so it follows pods that are replaced. While none is Ready, or the way to the cluster is broken, connections wait, 30 s at most.
type Forwards struct {
	all     []Forward
	sockets []io.Closer // net.Listener or *net.UDPConn, until Serve
	open    []*entrance.Entrance
}

// Config is what Serve needs.
type Config struct {
	Dial Dialer
	// Patience is how long a connection waits for its destination; 0 means 30 s.
	Patience time.Duration
	// Say takes lines for the user: that a destination does not answer, and that it does again. Nil: nobody hears.
	Say    func(warning bool, line string)
	Logger *slog.Logger // nil discards
}

// Take takes all ports, or none: the error is a *TakenError. Until Serve, connections wait. The caller closes them.
func Take(ctx context.Context, wanted []Forward) (*Forwards, error) {
	f := &Forwards{}
	for _, w := range wanted {
		if err := f.take(ctx, w); err != nil {
			_ = f.Close()
			return nil, &TakenError{
				What: "forward " + w.To.String(), At: w.At, UDP: w.UDP, Err: err,
				Hint: fmt.Sprintf("name another port of this machine behind it, as in %s; 0 takes any that is free", otherPort(w)),
			}
		}
	}
	return f, nil
}

// otherPort is how a forward with another port is written.
func otherPort(w Forward) string {
	text, udp := strings.CutSuffix(w.To.String(), "/udp")
	text += ":" + strconv.Itoa(anotherPort(w.At.Port()))
	if udp {
		text += "/udp"
	}
	return text
}

// anotherPort is one for an example.
func anotherPort(n uint16) int {
	if n < 1024 || n > 50000 {
		return 10000 + int(n)%10000
	}
	return int(n) + 10000
}

// take takes one port.
func (f *Forwards) take(ctx context.Context, w Forward) error {
	var socket io.Closer
	var local net.Addr
	if w.UDP {
		pc, err := net.ListenUDP(network("udp", w.At.Addr()), net.UDPAddrFromAddrPort(w.At))
		if err != nil {
			return err
		}
		socket, local = pc, pc.LocalAddr()
	} else {
		lis, err := listenTCP(ctx, w.At)
		if err != nil {
			return err
		}
		socket, local = lis, lis.Addr()
	}
	w.At = netip.AddrPortFrom(w.At.Addr(), entrance.AddrPortOf(local).Port())
	f.sockets, f.all = append(f.sockets, socket), append(f.all, w)
	return nil
}

// Serve begins to forward. It is called once, before Close.
func (f *Forwards) Serve(ctx context.Context, cfg Config) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Patience <= 0 {
		cfg.Patience = dialPatience
	}
	if cfg.Say == nil {
		cfg.Say = func(bool, string) {}
	}
	ctx = context.WithoutCancel(ctx) // Close ends them
	for i, w := range f.all {
		r := &route{to: w.To, cfg: cfg}
		e := &entrance.Entrance{Name: "the forwarded port of " + w.To.String(), Log: cfg.Logger}
		switch socket := f.sockets[i].(type) {
		case *net.UDPConn:
			e.Dial = func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) { return r.flow(ctx) }
			e.Receive(ctx, socket)
		case net.Listener:
			e.Dial = func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
				c, _, err := r.dial(ctx, "tcp")
				return c, err
			}
			e.Listen(ctx, socket)
		}
		f.open = append(f.open, e)
	}
	f.sockets = nil
}

// All are the forwards, with the ports that they have.
func (f *Forwards) All() []Forward { return f.all }

// Close gives the ports back, resets their connections and waits for them. It may be called twice.
func (f *Forwards) Close() error {
	var errs []error
	for _, socket := range f.sockets {
		errs = append(errs, socket.Close())
	}
	var closing sync.WaitGroup
	for _, e := range f.open {
		closing.Go(e.Close)
	}
	closing.Wait()
	f.sockets, f.open = nil, nil
	return errors.Join(errs...)
}

// route is the way to one destination. It is safe for concurrent use.
type route struct {
	to  Destination
	cfg Config

	mu      sync.Mutex
	known   []string // where it was last; nil: not known, or not any more
	missing bool     // the user was told that it does not answer
}

// dial connects to the destination, and waits for it to answer. It returns the address that did.
func (r *route) dial(ctx context.Context, network string) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		c, at, err := r.try(ctx, network)
		if err == nil {
			r.found()
			return c, at, nil
		}
		if ctx.Err() != nil {
			return nil, "", err
		}
		r.lost(err)
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, "", err
		}
	}
}

// try connects to the first of the destination's addresses that answers.
func (r *route) try(ctx context.Context, network string) (net.Conn, string, error) {
	addresses, err := r.addresses(ctx)
	if err != nil {
		return nil, "", err
	}
	var errs []error
	for _, a := range addresses {
		one, cancel := context.WithTimeout(ctx, tryPatience)
		c, err := r.cfg.Dial.DialContext(one, network, a)
		cancel()
		if err == nil {
			return c, a, nil
		}
		errs = append(errs, err)
	}
	r.forget()
	return nil, "", errors.Join(errs...)
}

// addresses are where the destination is: asked for each time, unless they stay. Where nobody can be asked, the API server being
// away, where it was last.
func (r *route) addresses(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	known := slices.Clone(r.known)
	r.mu.Unlock()
	if len(known) > 0 && r.to.Lasting() {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	now, err := r.to.Addresses(ctx)
	if err != nil {
		if len(known) > 0 && ctx.Err() != nil {
			return known, nil
		}
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = slices.Clone(now)
	return now, nil
}

func (r *route) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = nil
}

// lost tells the user, once, that the destination does not answer.
func (r *route) lost(err error) {
	r.cfg.Logger.Debug("a destination does not answer", "destination", r.to.String(), "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.missing {
		r.missing = true
		why := strings.TrimPrefix(err.Error(), r.to.String()+": ") // some errors name it, too
		r.cfg.Say(true, fmt.Sprintf("%s does not answer: %s; connections to it wait, up to %s", r.to, why, r.cfg.Patience))
	}
}

// found tells the user that it answers again.
func (r *route) found() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missing {
		r.missing = false
		r.cfg.Say(false, fmt.Sprintf("%s answers again", r.to))
	}
}

// flow opens a flow of datagrams. It ends when the pod that it leads to is the destination's no more, so that the next datagram
// leads to another.
func (r *route) flow(ctx context.Context) (net.Conn, error) {
	c, at, err := r.dial(ctx, "udp")
	if err != nil || r.to.Lasting() {
		return c, err
	}
	f := &followed{Conn: c, gone: make(chan struct{})}
	f.following.Go(func() { r.followLoop(ctx, f, at) })
	return f, nil
}

// followLoop ends when the flow does, or ends it.
func (r *route) followLoop(ctx context.Context, f *followed, at string) {
	look := time.NewTicker(followEvery)
	defer look.Stop()
	for {
		select {
		case <-f.gone:
			return
		case <-ctx.Done():
			return
		case <-look.C:
		}
		now, err := r.addresses(ctx)
		if err != nil {
			continue // nobody is there to lead to instead, or it cannot be known
		}
		if !slices.Contains(now, at) {
			r.cfg.Logger.Debug("a flow's pod was replaced", "destination", r.to.String(), "pod", at)
			_ = f.Conn.Close()
			return
		}
	}
}

// followed is a flow of datagrams whose pod is looked after.
type followed struct {
	net.Conn
	once      sync.Once
	gone      chan struct{}
	following sync.WaitGroup
}

// Close implements net.Conn.
func (f *followed) Close() error {
	f.once.Do(func() { close(f.gone) })
	err := f.Conn.Close()
	f.following.Wait()
	return err
}
