package tunnel

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec moves frames without copying them: a frame that is sent is one buffer from
// our pool, a received one keeps the buffers that HTTP/2 was read into. Everything else
// on the tunnel is protobuf.
type codec struct{}

// Name is part of the content type ("application/grpc+teleswap").
func (codec) Name() string { return "teleswap" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *outFrame:
		return mem.BufferSlice{m.buffer}, nil
	case proto.Message:
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return nil, fmt.Errorf("marshal %T: neither a frame nor protobuf", v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *inFrame:
		return m.take(data)
	case proto.Message:
		return proto.Unmarshal(data.Materialize(), m)
	}
	return fmt.Errorf("unmarshal %T: neither a frame nor protobuf", v)
}

// outFrame is one frame on its way out. The buffer belongs to gRPC once sent.
type outFrame struct{ buffer mem.Buffer }

// inFrame is one received frame; whoever holds it frees its body.
type inFrame struct {
	kind    kind
	offset  uint64
	bodyLen int
	// body is DATA's bytes, in the buffers they arrived in.
	body mem.Reader
}

// take parses the header and keeps a reference to the rest.
func (f *inFrame) take(data mem.BufferSlice) error {
	size := data.Len()
	var header [frameHeader]byte
	n := data.CopyTo(header[:])
	k, offset, err := parseHeader(header[:n], size-n)
	if err != nil {
		return err
	}
	f.kind, f.offset, f.bodyLen = k, offset, size-n
	f.body.Reset(data) // takes its own reference
	if _, err := f.body.Discard(frameHeader); err != nil {
		f.free()
		return err
	}
	return nil
}

// bytes copies the body of a frame that is not DATA, and frees it.
func (f *inFrame) bytes() []byte {
	b := make([]byte, f.bodyLen)
	n, _ := f.body.Read(b)
	f.free()
	return b[:n]
}

func (f *inFrame) free() { _ = f.body.Close() }

const (
	// maxPayload is the most DATA that Conn.Write puts into one frame. With its own header and gRPC's
	// (5 bytes) it fills HTTP/2 frames of 16 KiB exactly, so none goes out nearly empty.
	maxPayload = 2*16<<10 - frameHeader - 5
	largeFrame = frameHeader + maxPayload
	// smallFrame holds a request, an answer, a keystroke. It is above gRPC's threshold for
	// counting references (1 KiB): below that, a buffer's return is not told.
	smallFrame = 2 << 10
	// busyFrame is a connection's in full flow, eight HTTP/2 frames: a quarter of the calls on the
	// way. It holds the largest datagram too.
	busyFrame = 8*16<<10 - 5
)

// frameBuffers recycles the sizes of outgoing frames. One per Client and Server.
type frameBuffers struct{ small, large, busy sync.Pool }

func (p *frameBuffers) get(n int) *[]byte {
	pool, size := &p.small, smallFrame
	switch {
	case n > busyFrame: // not of ours
		fresh := make([]byte, n)
		return &fresh
	case n > largeFrame:
		pool, size = &p.busy, busyFrame
	case n > smallFrame:
		pool, size = &p.large, largeFrame
	}
	b, _ := pool.Get().(*[]byte)
	if b == nil {
		fresh := make([]byte, size)
		b = &fresh
	}
	*b = (*b)[:n]
	return b
}

func (p *frameBuffers) put(b *[]byte) {
	switch cap(*b) {
	case smallFrame:
		p.small.Put(b)
	case largeFrame:
		p.large.Put(b)
	case busyFrame:
		p.busy.Put(b)
	}
}

// Get and Put make it gRPC's mem.BufferPool, so that a sent frame comes back here.
func (p *frameBuffers) Get(n int) *[]byte { return p.get(n) }

// Put takes a buffer back.
func (p *frameBuffers) Put(b *[]byte) { p.put(b) }
