// Package entrance joins what arrives at a socket, connections or datagrams, to what is dialled for it on the other side of a
// network's border: a port of this machine that leads into a sandbox or a cluster, or one in a sandbox that leads out. It knows neither.
package entrance

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/accept"
	"github.com/teleswap/teleswap/proxy/relay"
)

const (
	// maxSenders bounds the flows of datagrams to one entrance.
	maxSenders = 256
	// senderIdle is how long such a flow may be silent.
	senderIdle = 60 * time.Second
	// inboxSize is how many datagrams wait for a flow; further ones are lost.
	inboxSize = 64
)

// Entrance is a socket that listens on one side of a network's border; each connection, and each flow of datagrams, is
// joined to one that is dialled on the other. Its fields are needed, and must not be changed once it listens.
type Entrance struct {
	Name string // for the log
	Log  *slog.Logger
	// Dial opens the other side's connection for a client at from, which called the address at. ctx ends with the
	// entrance.
	Dial func(ctx context.Context, from, at netip.AddrPort) (net.Conn, error)

	socket io.Closer          // what listens
	stop   context.CancelFunc // ends its connections and flows
	served sync.WaitGroup
}

// Listen takes connections until Close, or the end of ctx. The entrance closes the listener. Listen or Receive is called once.
func (e *Entrance) Listen(ctx context.Context, lis net.Listener) {
	e.socket = lis
	ctx, e.stop = context.WithCancel(ctx)
	e.served.Go(func() { e.acceptLoop(ctx, lis) })
}

// Receive takes datagrams as Listen takes connections: a flow for each client, which ends after 60 s of silence.
func (e *Entrance) Receive(ctx context.Context, pc *net.UDPConn) {
	e.socket = pc
	ctx, e.stop = context.WithCancel(ctx)
	e.served.Go(func() { e.receiveLoop(ctx, pc) })
}

// Close ends the socket, then its connections, and waits for them: whoever sees one end and connects again at once
// is refused.
func (e *Entrance) Close() {
	if err := e.socket.Close(); err != nil {
		e.Log.Debug("close an entrance", "of", e.Name, "error", err)
	}
	e.stop()
	e.served.Wait()
}

// acceptLoop takes connections until the listener is closed. The connections end with ctx.
func (e *Entrance) acceptLoop(ctx context.Context, lis net.Listener) {
	warn := func(err error) { e.Log.Warn("accept", "for", e.Name, "error", err) }
	accept.Loop(lis, warn, func(c net.Conn) { e.served.Go(func() { e.connect(ctx, c) }) })
}

// connect joins a connection to its other side; where there is none it is reset.
func (e *Entrance) connect(ctx context.Context, c net.Conn) {
	remote, err := e.Dial(ctx, AddrPortOf(c.RemoteAddr()), AddrPortOf(c.LocalAddr()))
	if err != nil {
		e.Log.Debug("dial", "for", e.Name, "error", err)
		relay.Reset(c)
		return
	}
	stop := context.AfterFunc(ctx, func() { relay.Reset(c); relay.Reset(remote) })
	defer stop()
	if err := relay.Relay(c, remote); err != nil {
		e.Log.Debug("a connection was cut", "of", e.Name, "error", err)
	}
}

// receiveLoop takes datagrams until the socket is closed, and sorts them into flows, which end with ctx.
func (e *Entrance) receiveLoop(ctx context.Context, pc *net.UDPConn) {
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
		if s == nil && len(flows) < maxSenders {
			s = newSender(pc, from)
			flows[from] = s
			e.served.Go(func() {
				e.carry(ctx, s)
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

// carry joins a flow to its other side.
func (e *Entrance) carry(ctx context.Context, s *sender) {
	defer func() { _ = s.Close() }()
	remote, err := e.Dial(ctx, s.from, AddrPortOf(s.pc.LocalAddr()))
	if err != nil {
		e.Log.Debug("dial", "for", e.Name, "error", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = remote.Close() })
	defer stop()
	flow := relay.Flow{Idle: senderIdle}
	if err := flow.Relay(s, remote); err != nil {
		e.Log.Debug("a flow of datagrams ended", "of", e.Name, "error", err)
	}
}

// AddrPortOf is the address of a socket of TCP or UDP; not valid where it has none.
func AddrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// sender is the near end of a flow that came to an entrance, as a connection.
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

// Close implements net.Conn. The socket is the entrance's, and stays.
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
