package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// listeners listens on the TCP ports. A port that cannot be had is told to the laptop,
// which can judge it, and does not end the agent: the other ports still serve.
func (a *agent) listeners(ctx context.Context) []net.Listener {
	var all []net.Listener
	for _, port := range a.cfg.Loopback {
		ls, err := bindLoopback(ctx, port)
		if a.notePort("tcp", port, err) {
			all = append(all, ls...)
		}
	}
	for _, port := range a.cfg.Listen {
		l, err := a.cfg.Bind(ctx, port)
		if a.notePort("tcp", port, err) {
			all = append(all, l)
		}
	}
	return all
}

// flowSockets is listeners for the UDP ports.
func (a *agent) flowSockets(ctx context.Context) []*flowSocket {
	var all []*flowSocket
	open := func(port uint16, private bool, bind func(context.Context, uint16) ([]*net.UDPConn, error)) {
		conns, err := bind(ctx, port)
		for _, c := range conns {
			s, serr := newFlowSocket(c)
			if serr != nil {
				_ = c.Close()
				err = errors.Join(err, serr)
				continue
			}
			s.private = private
			all = append(all, s)
		}
		a.notePort("udp", port, err)
	}
	for _, port := range a.cfg.LoopbackUDP {
		open(port, true, bindLoopbackUDP)
	}
	for _, port := range a.cfg.ListenUDP {
		open(port, false, a.cfg.BindUDP)
	}
	return all
}

// notePort tells whether a port is listened on, and returns whether it is.
func (a *agent) notePort(network string, port uint16, err error) bool {
	a.view.setPort(network, port, err)
	if err != nil {
		a.log.Error("cannot listen on a port", "network", network, "port", port, "error", err)
		a.server.Announce(tunnel.ListenFailed{Port: port, Err: err})
	}
	return err == nil
}

func bindAll(ctx context.Context, port uint16) (net.Listener, error) {
	return listenTCP(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
}

func listenTCP(ctx context.Context, network, address string) (net.Listener, error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false) // of no use inside a cluster, and slower
	return lc.Listen(ctx, network, address)
}

// loopbackAddrs are what other containers of the pod mean by localhost.
func loopbackAddrs(port uint16) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		netip.AddrPortFrom(netip.IPv6Loopback(), port),
	}
}

// bindLoopback listens on a TCP port of the loopback addresses that the pod has.
func bindLoopback(ctx context.Context, port uint16) ([]net.Listener, error) {
	var all []net.Listener
	for _, addr := range loopbackAddrs(port) {
		l, err := listenTCP(ctx, "tcp", addr.String())
		switch {
		case err == nil:
			all = append(all, l)
		case isMissingFamily(addr, err):
		default:
			for _, l := range all {
				_ = l.Close()
			}
			return nil, err
		}
	}
	return all, nil
}

// bindLoopbackUDP is bindLoopback for a UDP port.
func bindLoopbackUDP(_ context.Context, port uint16) ([]*net.UDPConn, error) {
	var all []*net.UDPConn
	for _, addr := range loopbackAddrs(port) {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		switch {
		case err == nil:
			all = append(all, c)
		case isMissingFamily(addr, err):
		default:
			for _, c := range all {
				_ = c.Close()
			}
			return nil, err
		}
	}
	return all, nil
}

// isMissingFamily says that a pod without IPv6 has not got the address.
func isMissingFamily(addr netip.AddrPort, err error) bool {
	return addr.Addr().Is6() && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL))
}
