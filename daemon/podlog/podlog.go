// Package podlog is where a process's output waits on its way to the pod's log: a queue of bounded size that never makes
// the process wait. It knows neither the process nor the way.
package podlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
)

// Limit is how many bytes wait, where nobody says otherwise.
const Limit = 1 << 20

// maxChunk is how much is put together to travel at once.
const maxChunk = 32 << 10

// Chunk is output of one of the process's two streams.
type Chunk struct {
	Stderr bool
	Data   []byte
}

// Queue keeps output in order. When it is full it drops what comes, until half of it is free again; a line then says how many
// lines are missing. Its methods are safe for concurrent use.
type Queue struct {
	limit int
	wake  chan struct{} // has a token when there may be something to take

	mu       sync.Mutex
	chunks   []Chunk
	size     int // bytes in chunks
	dropping bool
	lost     int     // lines dropped and not told
	midSeen  [2]bool // the stream's last byte was no newline: as the process wrote it,
	midKept  [2]bool // and as it was kept
	closed   bool
}

// New makes a queue for so many bytes.
func New(limit int) *Queue { return &Queue{limit: limit, wake: make(chan struct{}, 1)} }

func index(stderr bool) int {
	if stderr {
		return 1
	}
	return 0
}

// Write takes a copy of p, or drops it. It never waits.
func (q *Queue) Write(stderr bool, p []byte) {
	if len(p) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	i := index(stderr)
	wasMid := q.midSeen[i]
	q.midSeen[i] = p[len(p)-1] != '\n'
	if q.dropping {
		if q.size > q.limit/2 {
			q.lost += bytes.Count(p, []byte("\n"))
			return
		}
		if wasMid { // its beginning is lost already
			n := bytes.IndexByte(p, '\n') + 1
			if n == 0 {
				return
			}
			q.lost++
			p = p[n:]
		}
		q.tellLocked()
	}
	if q.size+len(p) > q.limit {
		q.dropping = true
		q.lost += bytes.Count(p, []byte("\n"))
		return
	}
	q.putLocked(stderr, p)
}

// tellLocked ends the dropping: lines that were cut are ended, and the missing ones are counted.
func (q *Queue) tellLocked() {
	for i := range q.midKept {
		if q.midKept[i] {
			q.putLocked(i == 1, []byte("\n"))
		}
	}
	lines := "lines"
	if q.lost == 1 {
		lines = "line"
	}
	q.putLocked(true, fmt.Appendf(nil, "teleswap: %d %s missing here: the way to the pod was too slow\n", q.lost, lines))
	q.dropping, q.lost = false, 0
}

func (q *Queue) putLocked(stderr bool, p []byte) {
	if len(p) == 0 {
		return
	}
	q.midKept[index(stderr)] = p[len(p)-1] != '\n'
	q.size += len(p)
	if n := len(q.chunks); n > 0 && q.chunks[n-1].Stderr == stderr && len(q.chunks[n-1].Data)+len(p) <= maxChunk {
		q.chunks[n-1].Data = append(q.chunks[n-1].Data, p...)
	} else {
		q.chunks = append(q.chunks, Chunk{stderr, bytes.Clone(p)})
	}
	q.wakeLocked()
}

func (q *Queue) wakeLocked() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Next takes what has waited longest, and waits for it. After Close it returns io.EOF once all is taken. One goroutine at a time
// may call it.
func (q *Queue) Next(ctx context.Context) (Chunk, error) {
	for {
		if c, ok, closed := q.take(); ok || closed {
			if !ok {
				return c, io.EOF
			}
			return c, nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return Chunk{}, context.Cause(ctx)
		}
	}
}

func (q *Queue) take() (c Chunk, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.chunks) == 0 {
		return c, false, q.closed
	}
	c = q.chunks[0]
	q.chunks = q.chunks[1:]
	q.size -= len(c.Data)
	return c, true, q.closed
}

// Close says that nothing more comes: later writes are dropped.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.dropping {
		q.tellLocked()
	}
	q.closed = true
	q.wakeLocked()
}
