package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"github.com/teleswap/teleswap/daemon/restart"
	"github.com/teleswap/teleswap/proxy/entrance"
)

// Publish is a port of the process, Inside, that is reached at an address and port of the laptop. A request's port
// may be 0: any that is free.
type Publish struct {
	At     netip.AddrPort
	Inside uint16
	UDP    bool
}

// String is p as --publish takes it.
func (p Publish) String() string {
	text := p.At.String() + ":" + strconv.Itoa(int(p.Inside))
	if p.UDP {
		text += "/udp"
	}
	return text
}

// network is that of p's socket on the laptop. [::] is all addresses, of IPv4 too.
func (p Publish) network() string {
	network, a := "tcp", p.At.Addr()
	if p.UDP {
		network = "udp"
	}
	switch {
	case a.Is4():
		network += "4"
	case !a.IsUnspecified():
		network += "6"
	}
	return network
}

// PublishError says why a port of the laptop cannot be had.
type PublishError struct {
	Publish Publish
	Session string // the session that has the port; empty: somebody else
	Err     error
}

func (e *PublishError) Error() string {
	p, at := e.Publish, e.Publish.At
	another := p
	another.At = netip.AddrPortFrom(at.Addr(), 0)
	hint := "choose another port; --publish " + another.String() + " takes any that is free"
	switch {
	case e.Session != "":
		return fmt.Sprintf("--publish %s: session %s has published %s already\n%s, or end that one: `teleswap leave %s`", p, e.Session, at, hint, e.Session)
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("--publish %s: %s is taken on this machine by another program (`ss -lnp 'sport = :%d'` shows which)\n%s", p, at, at.Port(), hint)
	case errors.Is(e.Err, syscall.EACCES):
		return fmt.Sprintf("--publish %s: port %d of this machine is root's (sysctl net.ipv4.ip_unprivileged_port_start)\n%s", p, at.Port(), hint)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("--publish %s: %s is no address of this machine\nleave it out for 127.0.0.1, or take one that `ip address` shows", p, at.Addr())
	}
	return fmt.Sprintf("--publish %s: %v\n%s", p, e.Err, hint)
}

func (e *PublishError) Unwrap() error { return e.Err }

// publisher holds ports of the laptop that lead into the sandbox. Until there is one, and where the process does
// not listen, a connection is reset: a caller who tries again later is better off than one who is kept waiting. The
// process sees it come from its own loopback address.
type publisher struct {
	log  *slog.Logger
	open []*entrance.Entrance
	all  []Publish // with the ports that they have

	// gate lets connections wait for a process that is restarted; nil: none is.
	gate *restart.Gate

	mu  sync.Mutex
	box socketMaker  // nil: no sandbox yet
	pod []netip.Addr // the sandbox's own addresses
}

// newPublisher takes all ports, or none: the error is a *PublishError. They are held until close.
func newPublisher(ctx context.Context, wanted []Publish, gate *restart.Gate, log *slog.Logger) (*publisher, error) {
	p := &publisher{log: log, gate: gate}
	ctx = context.WithoutCancel(ctx) // close ends them
	for _, w := range wanted {
		if err := p.add(ctx, w); err != nil {
			p.close()
			return nil, &PublishError{Publish: w, Err: err}
		}
	}
	return p, nil
}

// add takes one port.
func (p *publisher) add(ctx context.Context, w Publish) error {
	e := &entrance.Entrance{Name: "the published port " + w.String(), Log: p.log}
	var local net.Addr
	if w.UDP {
		pc, err := net.ListenUDP(w.network(), net.UDPAddrFromAddrPort(w.At))
		if err != nil {
			return err
		}
		e.Dial = func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
			return p.dial("udp", w.Inside)
		}
		e.Receive(ctx, pc)
		local = pc.LocalAddr()
	} else {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		lis, err := lc.Listen(ctx, w.network(), w.At.String())
		if err != nil {
			return err
		}
		e.Dial = func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
			return p.gate.Dial(ctx, w.Inside, func() (net.Conn, error) { return p.dial("tcp", w.Inside) })
		}
		e.Listen(ctx, lis)
		local = lis.Addr()
	}
	w.At = netip.AddrPortFrom(w.At.Addr(), entrance.AddrPortOf(local).Port())
	p.open, p.all = append(p.open, e), append(p.all, w)
	return nil
}

// attach lets connections into the sandbox, whose addresses are pod.
func (p *publisher) attach(box socketMaker, pod []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.box, p.pod = box, pod
}

// dial connects to what listens in the sandbox. No connect tells who takes datagrams: they go to 127.0.0.1.
func (p *publisher) dial(network string, port uint16) (net.Conn, error) {
	p.mu.Lock()
	box, addrs := p.box, []netip.Addr{loopback4}
	if network == "tcp" {
		addrs = append(append(addrs, netip.IPv6Loopback()), p.pod...)
	}
	p.mu.Unlock()
	if box == nil {
		return nil, errors.New("there is no sandbox yet")
	}
	var first error
	for _, a := range addrs {
		f, err := box.Dial(network, netip.AddrPortFrom(a, port))
		if err == nil {
			defer func() { _ = f.Close() }()
			return net.FileConn(f)
		}
		if first == nil { // [::1] may not even exist: that says less
			first = err
		}
	}
	return nil, first
}

// close gives the ports back and ends the connections. It may be called on nil.
func (p *publisher) close() {
	if p == nil {
		return
	}
	for _, e := range p.open {
		e.Close()
	}
}

// publish takes the laptop's ports that were asked for, before anything is changed. One that a session of this
// daemon is just giving back is waited for.
func (s *Session) publish(ctx context.Context, sw *swap) error {
	for {
		p, err := newPublisher(ctx, s.req.Publish, s.gate, s.log)
		var taken *PublishError
		if !errors.As(err, &taken) {
			s.mu.Lock()
			defer s.mu.Unlock()
			sw.published, s.published = p, p.all
			return nil
		}
		taken.Session = s.publisherOf(taken.Publish)
		restored := s.restored(taken.Session)
		if restored == nil {
			return taken
		}
		s.note("waiting until session %s has given %s back", taken.Session, taken.Publish.At)
		select {
		case <-restored:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// openPublished lets the laptop's ports lead into the sandbox.
func (s *Session) openPublished(sw *swap) error {
	pod, err := parseAddrs(sw.view.GetPodIps())
	if err != nil {
		return err
	}
	sw.published.attach(sw.box, pod)
	for _, p := range sw.published.all {
		s.note("published: %s leads to the process's port %d", p.At, p.Inside)
	}
	return nil
}
