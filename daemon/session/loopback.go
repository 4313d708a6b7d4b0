package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// neighbourFlows bounds the flows of datagrams to one port of another container.
	neighbourFlows = 256
	// neighbourIdle is how long such a flow may be silent.
	neighbourIdle = 60 * time.Second
	// inboxSize is how many datagrams wait for a flow; further ones are lost.
	inboxSize = 64
	// acceptPause is what a failing accept waits for, at least: descriptors that are freed.
	acceptPause = 100 * time.Millisecond
)

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

	told  chan tunnel.PodListening // the latest
	begun chan struct{}            // closed once what was told before the loop is there
	open  map[place]*neighbour     // follow's alone
	skip  map[place]struct{}       // those that were warned of
}

// place is where a container listens.
type place struct {
	network string // tcp, tcp4, tcp6, and udp with the same ends
	addr    netip.AddrPort
}

func (p place) String() string { return p.network[:3] + " " + p.addr.String() }

func newNeighbours(box socketMaker, l *agentLink) *neighbours {
	return &neighbours{
		box: box, warn: l.cfg.Warn, log: l.log,
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			client, err := l.working(ctx)
			if err != nil {
				return nil, err
			}
			return client.DialContext(ctx, network, address)
		},
		told: make(chan tunnel.PodListening, 1), begun: make(chan struct{}),
		open: make(map[place]*neighbour), skip: make(map[place]struct{}),
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
	select {
	case e := <-n.told:
		n.follow(ctx, e)
	default:
	}
	close(n.begun)
	for {
		select {
		case e := <-n.told:
			n.follow(ctx, e)
		case <-ctx.Done():
			for _, nb := range n.open {
				nb.close()
			}
			return
		}
	}
}

// follow opens what is new and closes what is gone.
func (n *neighbours) follow(ctx context.Context, e tunnel.PodListening) {
	want := append(places("tcp", e.TCP), places("udp", e.UDP)...)
	for p, nb := range n.open {
		if !slices.Contains(want, p) {
			delete(n.open, p)
			nb.close()
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

// neighbour is one port of another container, at the process's side.
type neighbour struct {
	place
	all    *neighbours
	socket io.Closer          // what listens
	stop   context.CancelFunc // ends its connections and flows
	served sync.WaitGroup
}

// close ends the listener, then its connections, and waits for them: whoever sees one end and connects again at once
// is refused.
func (nb *neighbour) close() {
	if err := nb.socket.Close(); err != nil {
		nb.all.log.Debug("close another container's port", "at", nb.place, "error", err)
	}
	nb.stop()
	nb.served.Wait()
}

// begin listens where a container does.
func (n *neighbours) begin(ctx context.Context, p place) (*neighbour, error) {
	f, err := n.box.Listen(p.network, p.addr)
	if errors.Is(err, syscall.EAFNOSUPPORT) && p.addr.Addr().IsUnspecified() { // a laptop without IPv6
		f, err = n.box.Listen(p.network[:3]+"4", netip.AddrPortFrom(netip.IPv4Unspecified(), p.addr.Port()))
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	nb := &neighbour{place: p, all: n}
	ctx, nb.stop = context.WithCancel(ctx)
	if p.network[:3] == "udp" {
		pc, err := net.FilePacketConn(f)
		if err != nil {
			nb.stop()
			return nil, fmt.Errorf("use a socket of the sandbox: %w", err)
		}
		nb.socket = pc
		nb.served.Go(func() { nb.receiveLoop(ctx, pc.(*net.UDPConn)) })
		return nb, nil
	}
	lis, err := net.FileListener(f)
	if err != nil {
		nb.stop()
		return nil, fmt.Errorf("use a socket of the sandbox: %w", err)
	}
	nb.socket = lis
	nb.served.Go(func() { nb.acceptLoop(ctx, lis) })
	return nb, nil
}

// acceptLoop takes the process's connections until the listener is closed. The connections end with ctx.
func (nb *neighbour) acceptLoop(ctx context.Context, lis net.Listener) {
	for {
		c, err := lis.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			nb.all.log.Warn("accept for another container", "at", nb.place, "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		default:
			nb.served.Go(func() { nb.connect(ctx, c) })
		}
	}
}

// connect joins a connection of the process to the container.
func (nb *neighbour) connect(ctx context.Context, c net.Conn) {
	remote, err := nb.all.dial(ctx, "tcp", c.LocalAddr().String())
	if err != nil {
		nb.all.log.Debug("dial another container", "at", nb.place, "error", err)
		relay.Reset(c)
		return
	}
	stop := context.AfterFunc(ctx, func() { relay.Reset(c); relay.Reset(remote) })
	defer stop()
	if err := relay.Relay(c, remote); err != nil {
		nb.all.log.Debug("a connection to another container was cut", "at", nb.place, "error", err)
	}
}

// receiveLoop takes the process's datagrams until the socket is closed, and sorts them into flows, which end with ctx.
func (nb *neighbour) receiveLoop(ctx context.Context, pc *net.UDPConn) {
	var mu sync.Mutex
	flows := make(map[netip.AddrPort]*sender)
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what nobody took of our answers is told here
		}
		mu.Lock()
		s := flows[from]
		if s == nil && len(flows) < neighbourFlows {
			s = newSender(pc, from)
			flows[from] = s
			nb.served.Go(func() {
				nb.carry(ctx, s)
				mu.Lock()
				defer mu.Unlock()
				delete(flows, from)
			})
		}
		mu.Unlock()
		if s != nil {
			s.deliver(buf[:n])
		}
	}
}

// carry joins a flow of the process to the container.
func (nb *neighbour) carry(ctx context.Context, s *sender) {
	defer func() { _ = s.Close() }()
	remote, err := nb.all.dial(ctx, "udp", nb.sentTo(s.from).String())
	if err != nil {
		nb.all.log.Debug("dial another container", "at", nb.place, "error", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = remote.Close() })
	defer stop()
	flow := relay.Flow{Idle: neighbourIdle}
	if err := flow.Relay(s, remote); err != nil {
		nb.all.log.Debug("datagrams to another container", "at", nb.place, "error", err)
	}
}

// sentTo is the address in the pod that a process sends to from its own: within one host
// both are the same, unless the process has chosen.
func (nb *neighbour) sentTo(from netip.AddrPort) netip.AddrPort {
	to := nb.addr.Addr()
	if to.IsUnspecified() {
		to = from.Addr().Unmap()
	}
	return netip.AddrPortFrom(to, nb.addr.Port())
}

// sender is the process's end of a flow, as a connection.
type sender struct {
	pc    *net.UDPConn
	from  netip.AddrPort
	inbox chan []byte
	gone  chan struct{}
	end   func()
}

func newSender(pc *net.UDPConn, from netip.AddrPort) *sender {
	s := &sender{pc: pc, from: from, inbox: make(chan []byte, inboxSize), gone: make(chan struct{})}
	s.end = sync.OnceFunc(func() { close(s.gone) })
	return s
}

// deliver gives the flow a datagram, unless too many wait.
func (s *sender) deliver(p []byte) {
	select {
	case s.inbox <- slices.Clone(p):
	default:
	}
}

// Read implements net.Conn.
func (s *sender) Read(p []byte) (int, error) {
	select {
	case b := <-s.inbox:
		return copy(p, b), nil
	case <-s.gone:
		return 0, net.ErrClosed
	}
}

// Write implements net.Conn.
func (s *sender) Write(p []byte) (int, error) { return s.pc.WriteToUDPAddrPort(p, s.from) }

// Close implements net.Conn. The socket is its neighbour's, and stays.
func (s *sender) Close() error {
	s.end()
	return nil
}

// LocalAddr implements net.Conn.
func (s *sender) LocalAddr() net.Addr { return s.pc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *sender) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(s.from) }

// SetDeadline implements net.Conn: a flow has none but its idle time.
func (s *sender) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.Conn.
func (s *sender) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.Conn.
func (s *sender) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
