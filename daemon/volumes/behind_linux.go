package volumes

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
	"github.com/teleswap/teleswap/proxy/sftpwire"
)

const (
	// behindFile and behindAll are how many bytes the pod may be behind the processes' writes, of a file and of all. A line
	// of 40 ms that moves 200 MiB a second holds so much of a file.
	behindFile, behindAll = 8 << 20, 32 << 20
	// chunkSize is how much of adjacent writes goes in one request, in bytes.
	chunkSize = 128 << 10
)

// pending are the writes of all files on which the pod has not answered.
type pending struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and another made, when anything here changes; nil: nobody waits
	files   map[*behind]struct{}
	bytes   int
}

// watchLocked returns what is closed at the next change.
func (w *pending) watchLocked() <-chan struct{} {
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.changed
}

func (w *pending) tellLocked() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// behind is what was written to one file and is on its way to the pod: a write returns when it is here. Everything leaves in
// the order in which it was written, by a goroutine that is there as long as anything is. The remote's pending.mu guards it.
type behind struct {
	remote *remote

	chunks      []*chunk // the oldest first; those that are sent stand before those that are not
	bytes       int
	taken, done uint64 // chunks in all
	waiting     int    // who waits for some to be done
	wrote       time.Time
	pumping     bool
}

// chunk is one WRITE.
type chunk struct {
	h    *handle
	off  int64
	data []byte
	sent bool // so it does not grow any more

	// Of the pump alone: its answer, or why it could not be sent.
	call    *sftp.Call
	refused error
}

// add takes a write in, once there is room. Who waits for that and is signalled gets EINTR: then nothing was taken.
func (b *behind) add(ctx context.Context, h *handle, data []byte, off int64) syscall.Errno {
	w := &b.remote.writes
	errno := b.remote.until(ctx, func() bool {
		return (b.bytes == 0 || b.bytes+len(data) <= behindFile) && (w.bytes == 0 || w.bytes+len(data) <= behindAll)
	})
	if errno != 0 {
		return errno
	}
	defer w.mu.Unlock()
	b.wrote = time.Now()
	w.bytes += len(data)
	b.bytes += len(data)
	if last := b.lastLocked(); last != nil && !last.sent && last.h == h &&
		last.off+int64(len(last.data)) == off && len(last.data)+len(data) <= chunkSize {
		last.data = append(last.data, data...)
	} else {
		for len(data) > 0 { // a write that fits into a request is never in two: who appends is not torn
			n := min(len(data), chunkSize)
			b.chunks = append(b.chunks, &chunk{h: h, off: off, data: append([]byte(nil), data[:n]...)})
			b.taken++
			data, off = data[n:], off+int64(n)
		}
	}
	w.tellLocked()
	if b.pumping {
		return 0
	}
	if !b.remote.loop(b.pump) {
		b.endLocked(len(b.chunks), syscall.EIO)
		return syscall.EIO
	}
	b.pumping = true
	if w.files == nil {
		w.files = map[*behind]struct{}{}
	}
	w.files[b] = struct{}{}
	return 0
}

func (b *behind) lastLocked() *chunk {
	if len(b.chunks) == 0 {
		return nil
	}
	return b.chunks[len(b.chunks)-1]
}

// until waits until ok, which is asked with pending.mu held, and returns 0 with it still held; or EINTR without it, when
// ctx has ended and ok has not come.
func (r *remote) until(ctx context.Context, ok func() bool) syscall.Errno {
	w := &r.writes
	w.mu.Lock()
	if ok() {
		return 0
	}
	signalled, settle := afterGrace(ctx)
	defer settle()
	for !ok() {
		changed := w.watchLocked()
		w.mu.Unlock()
		select {
		case <-changed:
		case <-signalled.Done():
			return syscall.EINTR
		}
		w.mu.Lock()
	}
	return 0
}

// settle waits until the pod has answered on all that was written so far to these files. It does not tell how: that the
// writer hears.
func (r *remote) settle(ctx context.Context, files ...*behind) syscall.Errno {
	w := &r.writes
	w.mu.Lock()
	targets := map[*behind]uint64{}
	for _, b := range files {
		if len(b.chunks) > 0 {
			targets[b] = b.taken
			b.waiting++
		}
	}
	if len(targets) == 0 {
		w.mu.Unlock()
		return 0
	}
	w.tellLocked()
	w.mu.Unlock()
	errno := r.until(ctx, func() bool {
		for b, target := range targets {
			if b.done < target {
				return false
			}
		}
		return true
	})
	if errno != 0 {
		w.mu.Lock()
	}
	defer w.mu.Unlock()
	for b := range targets {
		b.waiting--
	}
	return errno
}

// settleAll waits for all files' writes, so that who sees what is done next sees these too.
func (r *remote) settleAll(ctx context.Context) syscall.Errno {
	r.writes.mu.Lock()
	var files []*behind
	for b := range r.writes.files {
		files = append(files, b)
	}
	r.writes.mu.Unlock()
	return r.settle(ctx, files...)
}

// dirty tells whether anything is on its way, or was after a time.
func (b *behind) dirty(after time.Time) bool {
	b.remote.writes.mu.Lock()
	defer b.remote.writes.mu.Unlock()
	return len(b.chunks) > 0 || b.wrote.After(after)
}

// endLocked takes the first n chunks off; an errno is for who wrote them.
func (b *behind) endLocked(n int, errno syscall.Errno) {
	w := &b.remote.writes
	for _, c := range b.chunks[:n] {
		b.bytes -= len(c.data)
		w.bytes -= len(c.data)
		if errno != 0 {
			c.h.failed, c.h.told = errno, false
		}
		c.h.node.changed() // what was read meanwhile may be of before
	}
	b.done += uint64(n)
	b.chunks = append([]*chunk(nil), b.chunks[n:]...)
	b.wrote = time.Now()
	w.tellLocked()
}

// pump sends, and sends again what a broken connection took with it, until nothing is left. The way may be broken for
// patience, and the pod silent for operationTime: then what is left fails.
func (b *behind) pump() {
	r := b.remote
	var deadline time.Time
	var progress uint64
	for {
		if done := b.answered(); deadline.IsZero() || done != progress {
			deadline, progress = time.Now().Add(r.patience), done
		}
		waiting, cancel := context.WithDeadline(r.life, deadline)
		conn, err := r.current(waiting)
		cancel()
		if err == nil {
			err = b.push(conn)
		}
		if isLost(err) {
			r.lose(conn, err)
		}
		if b.rest(err) {
			return
		}
	}
}

func (b *behind) answered() uint64 {
	b.remote.writes.mu.Lock()
	defer b.remote.writes.mu.Unlock()
	return b.done
}

// rest decides what becomes of what is left after an error, and tells whether that is nothing: then the pump has ended.
func (b *behind) rest(err error) bool {
	w := &b.remote.writes
	w.mu.Lock()
	defer w.mu.Unlock()
	if isLost(err) && b.remote.life.Err() == nil {
		for _, c := range b.chunks {
			c.sent, c.call, c.refused = false, nil, nil
		}
	} else if err != nil {
		b.endLocked(len(b.chunks), syscall.EIO)
	}
	if len(b.chunks) > 0 {
		return false
	}
	b.pumping = false
	delete(w.files, b)
	w.tellLocked()
	return true
}

// errSilent is a pod that takes writes and does not answer.
var errSilent = errors.New("the pod does not answer a write")

// push sends on one connection until nothing is left, or it breaks.
func (b *behind) push(conn *connection) error {
	silent := time.AfterFunc(operationTime, conn.cut)
	defer silent.Stop()
	lost := func(err error) error {
		if !silent.Stop() {
			b.remote.log.Warn("the pod does not answer a write to its files")
			return errSilent
		}
		return err
	}
	for {
		next, oldest, changed := b.next(conn)
		switch {
		case next != nil:
			file, err := next.h.on(attempt{client: conn})
			if isLost(err) {
				return lost(err)
			}
			if err != nil {
				next.refused = err
			} else {
				next.call = file.Write(next.data, next.off)
			}
			continue
		case oldest == nil:
			return nil
		}
		err := oldest.refused
		if err == nil {
			select {
			case <-changed:
				continue
			case <-oldest.call.Done():
			}
			err = oldest.call.Err()
		}
		if isLost(err) {
			return lost(err)
		}
		silent.Reset(operationTime)
		b.remote.writes.mu.Lock()
		b.endLocked(1, errnoOf(err))
		b.remote.writes.mu.Unlock()
	}
}

// next says which chunk is to be sent now, if any, else which answer is the next, and what is closed when there is more to
// send. A part of a request waits for more to come as long as an answer is awaited and nobody waits for it.
func (b *behind) next(conn *connection) (next, oldest *chunk, changed <-chan struct{}) {
	w := &b.remote.writes
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(b.chunks) == 0 {
		return nil, nil, nil
	}
	at := 0
	for at < len(b.chunks) && b.chunks[at].sent {
		at++
	}
	if at < len(b.chunks) {
		c := b.chunks[at]
		full := len(c.data) == chunkSize || at < len(b.chunks)-1 || b.waiting > 0
		// The pod keeps the order of one handle's writes, if it keeps any.
		follows := at > 0 && conn.Has(sftpwire.ExtOrderedWrites) && b.chunks[at-1].h == c.h
		if at == 0 || full && follows {
			c.sent = true
			return c, nil, nil
		}
	}
	return nil, b.chunks[0], w.watchLocked()
}
