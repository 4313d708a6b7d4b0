package netstack

import (
	"bytes"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// udpConn is a connected UDP socket of the stack: each Read and each Write is one datagram.
type udpConn struct{ socket }

// newUDPConn wraps a connected endpoint.
func newUDPConn(ep tcpip.Endpoint, queue *waiter.Queue, local, remote netip.AddrPort) *udpConn {
	c := &udpConn{socket{network: "udp", local: net.UDPAddrFromAddrPort(local), remote: net.UDPAddrFromAddrPort(remote)}}
	c.open(ep, queue)
	return c
}

// Read implements net.Conn. What of a datagram does not fit into p is lost.
func (c *udpConn) Read(p []byte) (int, error) { return c.receive(p) }

// Write implements net.Conn.
func (c *udpConn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.send(func() tcpip.Error {
		_, err := c.ep.Write(bytes.NewReader(p), tcpip.WriteOptions{})
		return err
	}); err != nil {
		return 0, err
	}
	return len(p), nil
}
