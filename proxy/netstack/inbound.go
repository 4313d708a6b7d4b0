package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A closed connection keeps its addresses for timeWait; the kernel's part of closing takes much less.
const (
	reuseInterval = 10 * time.Millisecond
	reuseTries    = 3 * int(timeWait/reuseInterval)
)

// loopbackTime is how long a connection to the loopback address may take; nothing but the kernel's stack is in between.
const loopbackTime = time.Second

// DialTCP opens a connection to a process behind the device whose client address is src. dst is the address and
// port the client dialled; when nothing listens there, the same port of 127.0.0.1 is tried, then ::1 by
// Config.DialLoopback, which cannot show the client. Where dst itself is a loopback address, so that the client is one of
// the pod, all is left to Config.DialLoopback: the process sees a client at the same address. The error is a *net.OpError that wraps the errno: ECONNREFUSED,
// ETIMEDOUT, and EADDRINUSE where a connection between just these two addresses exists.
//
// A src that the process's kernel would take for its own (the pod's address, loopback) or that is none of dst's family
// cannot be shown to the process: it sees 192.0.0.8 (RFC 7600) or 100::1 (RFC 6666) with src's port.
func (s *Stack) DialTCP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	src, dst = unmap(src), unmap(dst)
	if !dst.IsValid() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EINVAL}
	}
	if dst.Addr().IsLoopback() && s.cfg.DialLoopback != nil {
		return s.dialLoopback(ctx, dst)
	}
	shown := s.foreign(src, dst.Addr())
	mayReplace := shown == src // else two clients may be shown as one
	src = shown
	c, err := s.dialFree(ctx, src, dst, mayReplace)
	if err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
		return c, err
	}
	if dst.Addr().Is4() && !dst.Addr().IsLoopback() {
		if c, err := s.dialLoopback4(ctx, src, dst.Port(), mayReplace); err == nil {
			return c, nil
		}
	}
	if s.cfg.DialLoopback != nil {
		if c, err := s.dialLoopback(ctx, dst); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// dialLoopback dials the loopback addresses to which only Config.DialLoopback leads.
func (s *Stack) dialLoopback(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	var first error
	for _, to := range s.insideOnly(dst) {
		c, err := s.cfg.DialLoopback(ctx, "tcp", to)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
		}
	}
	return nil, first
}

// dialLoopback4 dials what listens on 127.0.0.1 only. A kernel that was not told to take packets for loopback from a
// device (route_localnet) drops them in silence.
func (s *Stack) dialLoopback4(ctx context.Context, src netip.AddrPort, port uint16, mayReplace bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, loopbackTime)
	defer cancel()
	return s.dialFree(ctx, src, netip.AddrPortFrom(loopback4, port), mayReplace)
}

// insideOnly are the loopback addresses with dst's port to which only DialLoopback leads, in the order in which they are
// tried. A client that dialled ::1 was accepted whether or not the process listens there: 127.0.0.1 may be what it tries
// next.
func (s *Stack) insideOnly(dst netip.AddrPort) []netip.AddrPort {
	six, four := netip.AddrPortFrom(netip.IPv6Loopback(), dst.Port()), netip.AddrPortFrom(loopback4, dst.Port())
	switch a := dst.Addr(); {
	case s.cfg.DialLoopback == nil:
		return nil
	case a.Is6():
		return []netip.AddrPort{six, four}
	case a.IsLoopback():
		return []netip.AddrPort{dst, six}
	default:
		return []netip.AddrPort{six}
	}
}

// dialFree dials, and waits a moment where the connection before between the same two addresses is just being closed.
// Where it is not, the client has forgotten it, or could not begin another: with mayReplace it is reset, and replaced.
func (s *Stack) dialFree(ctx context.Context, src, dst netip.AddrPort, mayReplace bool) (net.Conn, error) {
	retry := time.NewTicker(reuseInterval)
	defer retry.Stop()
	for range reuseTries {
		c, err := s.dial(ctx, src, dst)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return c, err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, err
		}
	}
	if mayReplace {
		s.evict(src, dst)
	}
	return s.dial(ctx, src, dst)
}

// evict resets the connection between two addresses, if there is one.
func (s *Stack) evict(src, dst netip.AddrPort) {
	ep := s.stack.FindTransportEndpoint(networkOf(dst.Addr()), tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress: tcpip.AddrFromSlice(src.Addr().AsSlice()), LocalPort: src.Port(),
		RemoteAddress: tcpip.AddrFromSlice(dst.Addr().AsSlice()), RemotePort: dst.Port(),
	}, nicID)
	if ep == nil {
		return
	}
	s.cfg.Logger.Info("a client began a connection that was still open here", "from", src, "to", dst)
	ep.Abort()
}

// foreign is src, or what stands for it where the process's kernel would drop packets from it.
func (s *Stack) foreign(src netip.AddrPort, dst netip.Addr) netip.AddrPort {
	a := src.Addr()
	shown := a.IsValid() && a.Is4() == dst.Is4() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() &&
		a != broadcast && !slices.Contains(s.cfg.Addrs, a)
	switch {
	case shown:
		return src
	case dst.Is4():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 0, 8}), src.Port())
	default:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 1, 15: 1}), src.Port())
	}
}

// dial connects an endpoint that is bound to src to dst.
func (s *Stack) dial(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{
			Op: "dial", Net: "tcp",
			Source: net.TCPAddrFromAddrPort(src), Addr: net.TCPAddrFromAddrPort(dst), Err: err,
		}
	}
	queue := new(waiter.Queue)
	ep, terr := s.stack.NewEndpoint(tcp.ProtocolNumber, networkOf(dst.Addr()), queue)
	if terr != nil {
		return nil, fail(errnoOf(terr))
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	// A client may use one port towards several of ours. The stack lets bound endpoints share a port with this
	// option, and still refuses a second connection between the same two addresses.
	ep.SocketOptions().SetReusePort(true)
	terr = ep.Bind(fullAddress(src))
	if terr == nil {
		terr = ep.Connect(fullAddress(dst))
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, fail(ctx.Err())
		}
	}
	if terr != nil {
		ep.Close()
		return nil, fail(errnoOf(terr))
	}
	c, err := s.adopt(ep, queue, stack.TransportEndpointID{
		LocalAddress: tcpip.AddrFromSlice(src.Addr().AsSlice()), LocalPort: src.Port(),
		RemoteAddress: tcpip.AddrFromSlice(dst.Addr().AsSlice()), RemotePort: dst.Port(),
	})
	if err != nil {
		return nil, fail(err)
	}
	return c, nil
}
