package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// conn is a TCP connection of the stack.
type conn struct{ socket }

// newConn wraps an established endpoint.
func newConn(ep tcpip.Endpoint, queue *waiter.Queue, local, remote netip.AddrPort) *conn {
	c := &conn{socket{network: "tcp", local: net.TCPAddrFromAddrPort(local), remote: net.TCPAddrFromAddrPort(remote)}}
	c.open(ep, queue)
	return c
}

// Read implements net.Conn. What arrived before a reset is still read before syscall.ECONNRESET.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.receive(p)
	// The stack tells a reset once. Where Write was told, this is how Read hears of it.
	if errors.Is(err, io.EOF) && tcp.EndpointState(c.ep.State()) == tcp.StateError {
		return 0, c.opError("read", syscall.ECONNRESET)
	}
	return n, err
}

// Write implements net.Conn. It blocks while the send buffer is full.
func (c *conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	var r bytes.Reader
	done := 0
	for done < len(p) {
		if err := c.send(func() tcpip.Error {
			r.Reset(p[done:])
			n, err := c.ep.Write(&r, tcpip.WriteOptions{})
			done += int(n)
			return err
		}); err != nil {
			return done, err
		}
	}
	return done, nil
}

// CloseWrite ends the sending way: the other end reads EOF.
func (c *conn) CloseWrite() error {
	if err := c.ep.Shutdown(tcpip.ShutdownWrite); err != nil {
		return c.opError("close", errnoOf(err))
	}
	return nil
}

// Reset closes the connection so that the other end sees a reset.
func (c *conn) Reset() error {
	return c.end("reset", c.ep.Abort)
}
