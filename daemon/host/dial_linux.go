package host

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// where is where what is sent to dst really goes. An address of our device's own is nobody's but the resolver's, and the tunnel's other
// end must not be looked for in the tunnel.
func (c *Connection) where(dst netip.AddrPort) (netip.AddrPort, error) {
	if c.Plan.Address.Contains(dst.Addr()) || c.Plan.Address6.Contains(dst.Addr()) {
		return dst, syscall.ECONNREFUSED
	}
	if c.cfg.Agent != nil && c.cfg.Agent(dst) {
		return dst, syscall.ECONNREFUSED
	}
	real, ok := c.mapped.toReal(dst.Addr())
	if !ok {
		return dst, syscall.EHOSTUNREACH
	}
	return netip.AddrPortFrom(real, dst.Port()), nil
}

// dialTCP implements netstack.Config.
func (c *Connection) dialTCP(ctx context.Context, _, dst netip.AddrPort) (net.Conn, error) {
	to, err := c.where(dst)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return c.cfg.Cluster.DialContext(ctx, "tcp", to.String())
}

// dialUDP implements netstack.Config.
func (c *Connection) dialUDP(ctx context.Context, _, dst netip.AddrPort) (net.Conn, error) {
	to, err := c.where(dst)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "udp", Err: err}
	}
	return c.cfg.Cluster.DialContext(ctx, "udp", to.String())
}

// ping implements netstack.Config.
func (c *Connection) ping(ctx context.Context, dst netip.Addr, payload []byte) error {
	if dst == c.Plan.Resolver {
		return nil
	}
	to, err := c.where(netip.AddrPortFrom(dst, 0))
	if err != nil {
		return syscall.EHOSTUNREACH
	}
	return c.cfg.Cluster.Ping(ctx, to.Addr(), payload)
}
