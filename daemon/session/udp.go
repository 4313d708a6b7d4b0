package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/ping"
	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// arrivedIdle is how long a flow that arrived at the pod may be silent. The agent ends it
// after 60 s; this is for where its word is lost.
const arrivedIdle = 2 * time.Minute

// dialUDP begins a flow of datagrams the way its destination goes.
func (w *wiring) dialUDP(ctx context.Context, _, dst netip.AddrPort) (net.Conn, error) {
	if dst.Addr() == hostAddr {
		return w.host.DialUDP(ctx, netip.AddrPort{}, dst)
	}
	if w.way(dst.Addr()) == viaLaptop {
		var d net.Dialer
		return d.DialContext(ctx, "udp", dst.String())
	}
	client, err := w.link.Working(ctx)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "udp", Err: syscall.ENETUNREACH}
	}
	return client.DialContext(ctx, "udp", dst.String())
}

// ping sends an echo request the way its destination goes.
func (w *wiring) ping(ctx context.Context, dst netip.Addr, payload []byte) error {
	if dst == hostAddr {
		return pingErr(ping.Echo(ctx, loopback4, payload))
	}
	if w.way(dst) == viaLaptop {
		return pingErr(ping.Echo(ctx, dst, payload))
	}
	client, err := w.link.Working(ctx)
	if err != nil {
		return syscall.ENETUNREACH
	}
	return pingErr(client.Ping(ctx, dst, payload))
}

// pingErr makes "not allowed" of a ping that could not even be sent.
func pingErr(err error) error {
	if errors.Is(err, ping.ErrUnavailable) || errors.Is(err, tunnel.ErrPingUnavailable) {
		return fmt.Errorf("%w (%w)", syscall.EACCES, err)
	}
	return err
}

// serveFlow joins a flow of datagrams that arrived at the pod to the process.
func (l *agentLink) serveFlow(ctx context.Context, to served, in *tunnel.Inbound) {
	local, err := to.DialUDP(ctx, in.Remote, in.Local)
	if err != nil {
		l.log.Debug("inbound datagrams were refused", "port", in.Local.Port(), "error", err)
		if err := in.Refuse(errnoOf(err)); err != nil {
			l.log.Debug("refuse inbound datagrams", "error", err)
		}
		return
	}
	remote, err := in.Accept()
	if err != nil {
		l.log.Debug("accept inbound datagrams", "error", errors.Join(err, local.Close()))
		return
	}
	stop := context.AfterFunc(ctx, func() { _, _ = local.Close(), remote.Close() })
	defer stop()
	flow := relay.Flow{Idle: arrivedIdle}
	if err := flow.Relay(local, remote); err != nil {
		l.log.Debug("a flow of inbound datagrams ended", "port", in.Local.Port(), "error", err)
	}
}
