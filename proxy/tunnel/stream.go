package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

const (
	serviceName = "teleswap.tunnel.v1.Tunnel"

	methodControl  = "Control"
	methodDial     = "Dial"
	methodPark     = "Park"
	methodExchange = "Exchange"
	methodView     = "View"
	methodPing     = "Ping"
	methodTrees    = "Trees"
	methodLogs     = "Logs"

	// protocolVersion is SPEC.md's.
	protocolVersion = 1

	// Windows are set on both levels, or gRPC leaves the connection's at 64 KiB. The
	// stream's bounds what a slow reader makes the other end store, and, with the round
	// trip, a stream's throughput: 4 MiB carry 80 MiB/s over 50 ms.
	streamWindow = 4 << 20
	connWindow   = 16 << 20

	// ioBuffer is how much of the connection gRPC reads or writes at a time.
	ioBuffer = 128 << 10

	// maxMessage bounds one gRPC message: a frame, or a pod view with its environment.
	maxMessage = 16 << 20
)

func rawStream(name string) *grpc.StreamDesc {
	return &grpc.StreamDesc{StreamName: name, ServerStreams: true, ClientStreams: true}
}

func methodPath(name string) string { return "/" + serviceName + "/" + name }

// messageStream is what grpc.ClientStream and grpc.ServerStream share.
type messageStream interface {
	Context() context.Context
	SendMsg(m any) error
	RecvMsg(m any) error
}

// frameStream sends and receives frames on one gRPC stream. One goroutine may send
// while another receives; neither twice at once.
type frameStream struct {
	stream  messageStream
	buffers mem.BufferPool // where sent frames come from and return to
	// datagrams: each DATA is one, and may be empty. Set before the first is received.
	datagrams bool

	sent     counter // of the sender
	received counter // of the receiver
}

// send sends a frame whose body follows frameHeader spare bytes in b, which came from
// f.buffers and is given away.
func (f *frameStream) send(k kind, b *[]byte) error {
	putHeader(*b, k, f.sent.bytes)
	if k == kindData {
		f.sent.bytes += uint64(len(*b) - frameHeader)
	}
	return f.stream.SendMsg(&outFrame{buffer: mem.NewBuffer(b, f.buffers)})
}

// sendBody sends a frame that is not DATA.
func (f *frameStream) sendBody(k kind, body []byte) error {
	b := f.buffers.Get(frameHeader + len(body))
	copy((*b)[frameHeader:], body)
	return f.send(k, b)
}

// recv receives the next frame into m and verifies its place in the byte count.
func (f *frameStream) recv(m *inFrame) error {
	if err := f.stream.RecvMsg(m); err != nil {
		return err
	}
	err := f.received.take(m.kind, m.offset, m.bodyLen)
	if err == nil && m.kind == kindData {
		err = f.checkSize(m.bodyLen)
	}
	if err != nil {
		m.free()
	}
	return err
}

// checkSize holds DATA to what its network allows.
func (f *frameStream) checkSize(n int) error {
	switch {
	case f.datagrams && n > maxDatagram:
		return fmt.Errorf("%w: datagram of %d bytes", errFrameLong, n)
	case !f.datagrams && n == 0:
		return fmt.Errorf("%w: empty DATA", errFrameShort)
	}
	return nil
}

// expect receives a frame that must be of one of the kinds, none of them DATA.
func (f *frameStream) expect(kinds ...kind) (kind, []byte, error) {
	var m inFrame
	if err := f.recv(&m); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	for _, k := range kinds {
		if m.kind == k {
			return k, m.bytes(), nil
		}
	}
	m.free()
	return 0, nil, fmt.Errorf("%w: %s, want %v", errFrameUnexpected, m.kind, kinds)
}
