package agent

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// flow is a client's datagrams to one of the pod's addresses, as a connection: what a
// connected UDP socket would be, if several could share a port.
type flow struct {
	key   flowKey
	queue chan []byte
	moved atomic.Int64 // when a datagram last went either way (Unix nanoseconds)

	ended   chan struct{} // closed by end: ReadDatagram returns io.EOF
	endOnce sync.Once

	closed    chan struct{} // closed by Close
	closeOnce sync.Once
}

func newFlow(key flowKey) *flow {
	fl := &flow{key: key, queue: make(chan []byte, flowQueue), ended: make(chan struct{}), closed: make(chan struct{})}
	fl.touch()
	return fl
}

func (f *flow) touch()          { f.moved.Store(time.Now().UnixNano()) }
func (f *flow) last() time.Time { return time.Unix(0, f.moved.Load()) }

// arrive queues a copy of a datagram from the client, or drops it where the queue is full.
func (f *flow) arrive(p []byte) {
	f.touch()
	select {
	case f.queue <- append(make([]byte, 0, len(p)), p...):
	default:
	}
}

// ReadDatagram returns the client's next datagram.
func (f *flow) ReadDatagram() ([]byte, error) {
	select {
	case p := <-f.queue:
		return p, nil
	case <-f.closed:
		return nil, net.ErrClosed
	case <-f.ended:
		return nil, io.EOF
	}
}

// Read is ReadDatagram into a buffer; what does not fit is lost.
func (f *flow) Read(p []byte) (int, error) {
	d, err := f.ReadDatagram()
	return copy(p, d), err
}

// Write sends the client a datagram, from the address that it had sent to.
func (f *flow) Write(p []byte) (int, error) {
	select {
	case <-f.closed:
		return 0, net.ErrClosed
	default:
	}
	f.touch()
	return f.key.socket.send(p, f.key.local, f.key.remote)
}

// end tells whoever reads that the flow is over. It may be called often.
func (f *flow) end() { f.endOnce.Do(func() { close(f.ended) }) }

// Close ends the flow. It may be called often.
func (f *flow) Close() error {
	f.closeOnce.Do(func() { close(f.closed) })
	return nil
}

// LocalAddr is the pod's address that the client sends to.
func (f *flow) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(f.key.local) }

// RemoteAddr is the client's.
func (f *flow) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(f.key.remote) }

// SetDeadline is not to be had: nobody here sets any.
func (f *flow) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline is not to be had either.
func (f *flow) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline is not to be had either.
func (f *flow) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
