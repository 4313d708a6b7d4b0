package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// settleTime is how long after its first datagram a flow to a process may still be told that nobody takes it there,
	// and try elsewhere. The process's kernel says so in less than a millisecond.
	settleTime = time.Second
	// maxUnsettled bounds the bytes that are kept meanwhile to be sent elsewhere.
	maxUnsettled = 128 << 10
)

// DialUDP opens a flow of datagrams to a process behind the device whose client address is src. dst is the address
// and port the client sent to; where the process's kernel says that nothing listens there, the datagrams are sent to
// the loopback addresses' same port, as by DialTCP. Each Read and each Write of the connection is one datagram. Read
// and Write fail with a *net.OpError that wraps ECONNREFUSED when nobody takes them anywhere. The caller closes it:
// silence does not end it. src is shown as by DialTCP; a flow that is still open between the same two addresses
// is ended.
func (s *Stack) DialUDP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	src, dst = unmap(src), unmap(dst)
	if !dst.IsValid() {
		return nil, &net.OpError{Op: "dial", Net: "udp", Err: syscall.EINVAL}
	}
	shown := s.foreign(src, dst.Addr())
	dial := func(to netip.AddrPort) func() (net.Conn, error) {
		return func() (net.Conn, error) { return s.dialUDP(shown, to, shown == src) }
	}
	c := &seeker{}
	if dst.Addr().Is4() && !dst.Addr().IsLoopback() {
		c.next = append(c.next, dial(netip.AddrPortFrom(loopback4, dst.Port())))
	}
	for _, to := range s.insideOnly(dst) {
		c.next = append(c.next, func() (net.Conn, error) {
			return s.cfg.DialLoopback(context.WithoutCancel(ctx), "udp", to)
		})
	}
	first := dial(dst)
	if dst.Addr().IsLoopback() && len(c.next) > 0 {
		first, c.next = c.next[0], c.next[1:]
	}
	var err error
	if c.cur, err = first(); err != nil {
		return nil, err
	}
	forget, ok := s.keep(c)
	if !ok {
		_ = c.Close()
		return nil, &net.OpError{Op: "dial", Net: "udp", Err: net.ErrClosed}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget = forget
	if c.isEnded { // the stack was closed meanwhile
		forget()
	}
	return c, nil
}

// dialUDP connects an endpoint that is bound to src to dst.
func (s *Stack) dialUDP(src, dst netip.AddrPort, mayReplace bool) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{
			Op: "dial", Net: "udp",
			Source: net.UDPAddrFromAddrPort(src), Addr: net.UDPAddrFromAddrPort(dst), Err: err,
		}
	}
	s.inMu.Lock()
	defer s.inMu.Unlock()
	key := pairOfAddrs{src, dst}
	before := net.Conn(nil)
	if c, open := s.in[key]; open {
		before = c
	} else if c := s.flowOf(pairOfAddrs{dst, src}); c != nil {
		before, mayReplace = c, true // the process asked this client before: from now on it answers
	}
	if before != nil && !mayReplace {
		return nil, fail(syscall.EADDRINUSE)
	}
	if before != nil {
		_ = before.Close()
	}
	queue := new(waiter.Queue)
	ep, terr := s.stack.NewEndpoint(udp.ProtocolNumber, networkOf(dst.Addr()), queue)
	if terr != nil {
		return nil, fail(errnoOf(terr))
	}
	ep.SocketOptions().SetReusePort(true) // a client may use one port towards several of ours
	ep.SocketOptions().SetV6Only(true)
	terr = ep.Bind(fullAddress(src))
	if terr == nil {
		terr = ep.Connect(fullAddress(dst))
	}
	if terr != nil {
		ep.Close()
		return nil, fail(errnoOf(terr))
	}
	c := newUDPConn(ep, queue, src, dst)
	s.in[key] = c
	return &inConn{c, func() {
		s.inMu.Lock()
		defer s.inMu.Unlock()
		if s.in[key] == c {
			delete(s.in, key)
		}
	}}, nil
}

// inConn is an inbound flow's socket, which is on the stack's list until it is closed.
type inConn struct {
	*udpConn
	forget func()
}

// Close implements net.Conn.
func (c *inConn) Close() error {
	err := c.udpConn.Close()
	c.forget()
	return err
}

// seeker is a flow to a process of which only the first datagrams will tell where it listens. It sends what nobody
// takes in one place to the next.
type seeker struct {
	mu      sync.Mutex
	forget  func()
	cur     net.Conn
	next    []func() (net.Conn, error) // places that are left to try
	sent    [][]byte                   // since the flow began, while it is not settled
	size    int                        // of sent, in bytes
	first   time.Time                  // when the first datagram was sent to cur
	before  time.Time                  // deadlines, for who comes after cur
	until   time.Time
	isEnded bool
}

// current is the place in use.
func (c *seeker) current() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur
}

// Read implements net.Conn.
func (c *seeker) Read(p []byte) (int, error) {
	for {
		cur := c.current()
		n, err := cur.Read(p)
		if err == nil {
			c.settle()
			return n, nil
		}
		if err = c.elsewhere(cur, err); err != nil {
			return 0, err
		}
	}
}

// Write implements net.Conn.
func (c *seeker) Write(p []byte) (int, error) {
	cur := c.record(p)
	if _, err := cur.Write(p); err != nil {
		if err = c.elsewhere(cur, err); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// settle gives up trying other places: somebody is here.
func (c *seeker) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleLocked()
}

func (c *seeker) settleLocked() { c.next, c.sent = nil, nil }

// record keeps a datagram that may have to be sent elsewhere, and returns where to send it now.
func (c *seeker) record(p []byte) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = time.Now()
	}
	if len(c.next) == 0 || time.Since(c.first) > settleTime {
		c.settleLocked()
		return c.cur
	}
	if c.size += len(p); c.size <= maxUnsettled {
		c.sent = append(c.sent, append([]byte(nil), p...))
	}
	return c.cur
}

// elsewhere goes on in the next place where err says that nobody is in this one. It returns err where there is none.
func (c *seeker) elsewhere(from net.Conn, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isEnded:
		return err
	case c.cur != from:
		return nil // the other way has been told, and gone on
	case !errors.Is(err, syscall.ECONNREFUSED), len(c.next) == 0, time.Since(c.first) > settleTime:
		return err
	}
	for len(c.next) > 0 {
		dial := c.next[0]
		c.next = c.next[1:]
		next, derr := dial()
		if derr != nil {
			continue
		}
		_ = from.Close()
		c.cur, c.first = next, time.Now()
		_ = next.SetReadDeadline(c.before)
		_ = next.SetWriteDeadline(c.until)
		for _, p := range c.sent {
			_, _ = next.Write(p) // what fails is told to the next Read
		}
		return nil
	}
	return err
}

// Close implements net.Conn.
func (c *seeker) Close() error {
	c.mu.Lock()
	ended, cur, forget := c.isEnded, c.cur, c.forget
	c.isEnded = true
	c.mu.Unlock()
	if ended {
		return net.ErrClosed
	}
	if forget != nil {
		forget()
	}
	return cur.Close()
}

// LocalAddr implements net.Conn: the client's address as the process sees it.
func (c *seeker) LocalAddr() net.Addr { return c.current().LocalAddr() }

// RemoteAddr implements net.Conn: the process's.
func (c *seeker) RemoteAddr() net.Addr { return c.current().RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *seeker) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *seeker) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = t
	return c.cur.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *seeker) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.cur.SetWriteDeadline(t)
}
