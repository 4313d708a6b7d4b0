package session

import (
	"context"
	"net"
	"net/netip"

	"github.com/teleswap/teleswap/daemon/restart"
	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/procnet"
)

// served is where what arrives at the pod goes: to a sandbox, or to the laptop itself. Its methods are safe for concurrent
// use. local is the address and port that the client has called in the pod, client its own; an error that wraps an errno is
// told to the client's side as such.
type served interface {
	listens
	// DialTCP connects to what listens on local's port.
	DialTCP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error)
	// DialUDP begins a flow of datagrams: each Write is one, and each Read.
	DialUDP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error)
}

// listens tells the sockets that listen, or are bound for datagrams, at one of these places.
type listens interface {
	Listening() ([]procnet.Socket, error)
}

// boxed serves by a sandbox: packets of the client's address come out of its device.
type boxed struct {
	*netstack.Stack
	listens
}

var _ served = boxed{}

// patient serves by a process that may be restarted.
type patient struct {
	served
	gate *restart.Gate
}

// gated has connections wait while the process is restarted; a nil gate changes nothing.
func gated(to served, gate *restart.Gate) served {
	if gate == nil {
		return to
	}
	gate.Attach(to)
	return patient{to, gate}
}

// DialTCP implements served; ctx lasts as long as the connection.
func (p patient) DialTCP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	return p.gate.Dial(ctx, local.Port(), func() (net.Conn, error) { return p.served.DialTCP(ctx, client, local) })
}
