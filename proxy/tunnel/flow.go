package tunnel

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Flow is a UDP flow that the agent holds, at the laptop: what a connected UDP socket in
// the pod is. Each Write is one datagram, each Read one; empty ones are allowed. It is
// safe for concurrent use.
//
// Nothing is dropped in the tunnel: Write waits while the way to the agent is full, and the
// pod's sockets drop what comes in faster than Read takes it. An ICMP error that the pod got
// (port unreachable, say) ends the flow: Read and Write return a *net.OpError with its errno.
// When the agent ends the flow, Read returns io.EOF.
type Flow struct{ conn *Conn }

// Read reads one datagram. What does not fit into p is lost, as with recv(2).
func (f *Flow) Read(p []byte) (int, error) {
	c := f.conn
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if err := c.readable(); err != nil {
		return 0, c.readError(err)
	}
	if err := c.nextFrame(); err != nil {
		return 0, c.readError(err)
	}
	defer c.reading.free()
	if c.reading.bodyLen == 0 || len(p) == 0 {
		return 0, nil
	}
	return c.reading.body.Read(p)
}

// Write sends one datagram, and returns once it is queued. One of more than 65,507 bytes is
// refused with syscall.EMSGSIZE; one that the pod's way does not carry is lost.
func (f *Flow) Write(p []byte) (int, error) {
	c := f.conn
	if len(p) > maxDatagram {
		return 0, c.opError("write", os.NewSyscallError("sendto", syscall.EMSGSIZE))
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.waitWritable(); err != nil {
		return 0, c.opError("write", err)
	}
	b := c.queue.Get(frameHeader + len(p))
	copy((*b)[frameHeader:], p)
	if err := c.frames.send(kindData, b); err != nil {
		return 0, c.opError("write", c.writeError())
	}
	return len(p), nil
}

// Close ends the flow. Datagrams written before still go out.
func (f *Flow) Close() error { return f.conn.Close() }

// LocalAddr is the address of the end that the agent holds: in the pod. A *net.UDPAddr.
func (f *Flow) LocalAddr() net.Addr { return f.conn.LocalAddr() }

// RemoteAddr is the address of the other end, as the agent sees it. A *net.UDPAddr.
func (f *Flow) RemoteAddr() net.Addr { return f.conn.RemoteAddr() }

// SetDeadline sets both deadlines.
func (f *Flow) SetDeadline(t time.Time) error { return f.conn.SetDeadline(t) }

// SetReadDeadline sets the deadline of Read.
func (f *Flow) SetReadDeadline(t time.Time) error { return f.conn.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of Write.
func (f *Flow) SetWriteDeadline(t time.Time) error { return f.conn.SetWriteDeadline(t) }

// DatagramReader is a connection handed to Server.Deliver or returned by ServerConfig.Dial
// that has its datagrams in memory already.
type DatagramReader interface {
	// ReadDatagram returns the next datagram; it is valid until the next call. io.EOF ends the
	// flow in order.
	ReadDatagram() ([]byte, error)
}

// socketReader reads the datagrams of a socket, which cannot say beforehand how large they are.
type socketReader struct {
	conn    net.Conn
	scratch [maxDatagram]byte
}

// ReadDatagram reads from the socket.
func (r *socketReader) ReadDatagram() ([]byte, error) {
	n, err := r.conn.Read(r.scratch[:])
	return r.scratch[:n], err
}

// isDatagramLoss tells the errors of a send that cost one datagram, not the flow.
func isDatagramLoss(err error) bool {
	for _, errno := range [...]syscall.Errno{syscall.EMSGSIZE, syscall.ENOBUFS, syscall.EAGAIN, syscall.ENOMEM, syscall.EINTR, syscall.EPERM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
