package tunnel

import "sync/atomic"

// sendAhead is how much a connection queues before Write waits. gRPC's SendMsg does
// not block below 64 KiB in its own count, which is never above ours: so Write waits
// here, where a deadline and Close can end it, and never there.
const sendAhead = 64 << 10

// sendQueue is the buffer pool of one connection: it knows how much was handed to gRPC
// and has not been written to the transport yet.
type sendQueue struct {
	buffers *frameBuffers
	queued  atomic.Int64
	free    chan struct{} // tells the one Write that waits; capacity 1
}

func newSendQueue(buffers *frameBuffers) *sendQueue {
	return &sendQueue{buffers: buffers, free: make(chan struct{}, 1)}
}

// hasRoom reports whether SendMsg will not block.
func (q *sendQueue) hasRoom() bool { return q.queued.Load() < sendAhead }

// grpcPrefix is what gRPC puts before each message and counts as sent.
const grpcPrefix = 5

// Get takes a buffer of n bytes and counts it.
func (q *sendQueue) Get(n int) *[]byte {
	b := q.buffers.get(n)
	q.queued.Add(int64(cap(*b)) + grpcPrefix)
	return b
}

// Put takes back a buffer that gRPC is done with.
func (q *sendQueue) Put(b *[]byte) {
	size := int64(cap(*b)) + grpcPrefix
	q.buffers.put(b)
	if q.queued.Add(-size) < sendAhead {
		select {
		case q.free <- struct{}{}:
		default:
		}
	}
}
