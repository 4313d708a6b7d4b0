// Package ports opens ports of this machine that lead into a cluster, for programs that know nothing of it: ports that are forwarded to
// Services and pods, and a proxy. How a connection gets into the cluster, and where there a destination listens, arrives through
// interfaces.
package ports

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Dialer connects from a pod of the cluster: network is "tcp" or "udp", address HOST:PORT, HOST being an address or a name of the cluster.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// TakenError says why a port of this machine cannot be had.
type TakenError struct {
	What string // it is for: "forward service-b:5100", "--proxy"
	At   netip.AddrPort
	UDP  bool
	Hint string // how another is named
	Err  error
}

func (e *TakenError) Error() string {
	flag := "-ltnp"
	if e.UDP {
		flag = "-lunp"
	}
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("%s: %s is taken on this machine by another program (`ss %s 'sport = :%d'` shows which)\n%s", e.What, e.At, flag, e.At.Port(), e.Hint)
	case errors.Is(e.Err, syscall.EACCES):
		return fmt.Sprintf("%s: port %d of this machine is root's (sysctl net.ipv4.ip_unprivileged_port_start)\n%s", e.What, e.At.Port(), e.Hint)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s: %s is no address of this machine\ntake one that `ip address` shows", e.What, e.At.Addr())
	}
	return fmt.Sprintf("%s: %v\n%s", e.What, e.Err, e.Hint)
}

func (e *TakenError) Unwrap() error { return e.Err }

// network is that of a socket at an address: [::] is all addresses, of IPv4 too.
func network(kind string, a netip.Addr) string {
	switch {
	case a.Is4():
		return kind + "4"
	case !a.IsUnspecified():
		return kind + "6"
	}
	return kind
}

func listenTCP(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, network("tcp", at.Addr()), at.String())
}
