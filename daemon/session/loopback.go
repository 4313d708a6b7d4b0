package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/entrance"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// loopback4 is where a pod's containers meet, and a laptop's programs.
var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// socketMaker makes sockets in the sandbox; a Box is one.
type socketMaker interface {
	Dial(network string, addr netip.AddrPort) (*os.File, error)
	Listen(network string, addr netip.AddrPort) (*os.File, error)
}

// neighbours lets the process find what the pod's other containers listen on where it is in
// the pod: at the same addresses and ports. Each connection is dialled for in the pod.
type neighbours struct {
	box  socketMaker
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	warn func(format string, args ...any)
	log  *slog.Logger
	// wanted are ports of the pod's loopback address that are here whatever listens there.
	wanted []kube.Port

	told  chan tunnel.PodListening     // the latest
	begun chan struct{}                // closed once what was told before the loop is there
	open  map[place]*entrance.Entrance // follow's alone
	skip  map[place]struct{}           // those that were warned of
}

// place is where a container listens.
type place struct {
	network string // tcp, tcp4, tcp6, and udp with the same ends
	addr    netip.AddrPort
}

func (p place) String() string { return p.network[:3] + " " + p.addr.String() }

func (p place) isUDP() bool { return p.network[:3] == "udp" }

func newNeighbours(box socketMaker, l *agentLink) *neighbours {
	return &neighbours{
		box: box, warn: l.cfg.Warn, log: l.log, wanted: l.cfg.ToPod,
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			client, err := l.Working(ctx)
			if err != nil {
				return nil, err
			}
			return client.DialContext(ctx, network, address)
		},
		told: make(chan tunnel.PodListening, 1), begun: make(chan struct{}),
		open: make(map[place]*entrance.Entrance), skip: make(map[place]struct{}),
	}
}

// tell says what the containers listen on now. It does not wait; calls may not overlap.
func (n *neighbours) tell(e tunnel.PodListening) {
	select {
	case <-n.told: // that is history
	default:
	}
	n.told <- e
}

// followLoop opens and closes listeners as it is told, until ctx ends; then it closes all.
func (n *neighbours) followLoop(ctx context.Context) {
	var e tunnel.PodListening
	select {
	case e = <-n.told:
	default: // nothing yet, but for what is wanted anyway
	}
	n.follow(ctx, e)
	close(n.begun)
	for {
		select {
		case e := <-n.told:
			n.follow(ctx, e)
		case <-ctx.Done():
			for _, nb := range n.open {
				nb.Close()
			}
			return
		}
	}
}

// follow opens what is new and closes what is gone.
func (n *neighbours) follow(ctx context.Context, e tunnel.PodListening) {
	want := append(places("tcp", n.withWanted(false, e.TCP)), places("udp", n.withWanted(true, e.UDP))...)
	for p, nb := range n.open {
		if !slices.Contains(want, p) {
			delete(n.open, p)
			nb.Close()
		}
	}
	for _, p := range want {
		if n.open[p] != nil {
			continue
		}
		nb, err := n.begin(ctx, p)
		if err == nil {
			n.open[p] = nb
			n.log.Debug("another container's port is here, too", "at", p)
			continue
		}
		if _, known := n.skip[p]; known || errors.Is(err, net.ErrClosed) {
			continue // the sandbox has ended
		}
		n.skip[p] = struct{}{}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			n.warn("the process listens on %s itself, as another container of the pod does: it does not reach that one", p)
		default:
			n.warn("the process does not reach another container's %s: %v", p, err)
		}
	}
}

// withWanted adds what is wanted whether it listens or not to what listens, unless that is there.
func (n *neighbours) withWanted(udp bool, listening []netip.AddrPort) []netip.AddrPort {
	all := slices.Clone(listening)
	for _, p := range n.wanted {
		here := func(a netip.AddrPort) bool {
			return int32(a.Port()) == p.Number && (a.Addr().IsUnspecified() || a.Addr() == loopback4)
		}
		if p.UDP == udp && !slices.ContainsFunc(listening, here) {
			all = append(all, netip.AddrPortFrom(loopback4, uint16(p.Number)))
		}
	}
	return all
}

// places are where sockets are to be made for what listens at addrs.
func places(network string, addrs []netip.AddrPort) []place {
	var all []place
	for _, a := range addrs {
		p := place{network + "4", a}
		if a.Addr().Is6() {
			p.network = network + "6"
			// Nearly all that listen on [::] take IPv4 too, unless something else does.
			if a.Addr().IsUnspecified() && !slices.Contains(addrs, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())) {
				p.network = network
			}
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// begin listens where a container does.
func (n *neighbours) begin(ctx context.Context, p place) (*entrance.Entrance, error) {
	f, err := n.box.Listen(p.network, p.addr)
	if errors.Is(err, syscall.EAFNOSUPPORT) && p.addr.Addr().IsUnspecified() { // a laptop without IPv6
		f, err = n.box.Listen(p.network[:3]+"4", netip.AddrPortFrom(netip.IPv4Unspecified(), p.addr.Port()))
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	e := &entrance.Entrance{Name: "another container's " + p.String(), Log: n.log, Dial: func(ctx context.Context, from, at netip.AddrPort) (net.Conn, error) {
		if p.isUDP() { // which knows no address of its own where it is bound to all
			at = p.sentTo(from)
		}
		return n.dial(ctx, p.network[:3], at.String())
	}}
	if p.isUDP() {
		pc, err := net.FilePacketConn(f)
		if err != nil {
			return nil, fmt.Errorf("use a socket of the sandbox: %w", err)
		}
		e.Receive(ctx, pc.(*net.UDPConn))
		return e, nil
	}
	lis, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("use a socket of the sandbox: %w", err)
	}
	e.Listen(ctx, lis)
	return e, nil
}

// sentTo is the address in the pod that a process sends to from its own: within one host
// both are the same, unless the process has chosen.
func (p place) sentTo(from netip.AddrPort) netip.AddrPort {
	to := p.addr.Addr()
	if to.IsUnspecified() {
		to = from.Addr().Unmap()
	}
	return netip.AddrPortFrom(to, p.addr.Port())
}
