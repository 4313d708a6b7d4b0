package volumes

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
	"github.com/teleswap/teleswap/proxy/sftpwire"
)

const (
	// aheadFile and aheadAll are how many bytes are read ahead, of a file and of all. The kernel's own reading ahead ends at
	// 128 KiB, which a line of 40 ms moves 25 times a second.
	aheadFile, aheadAll = 8 << 20, 64 << 20
	// aheadFirst is how much it is at first. It doubles with each read that goes on where the last ones ended and finds that its
	// block has not come yet: so no more is read ahead than the line makes necessary.
	aheadFirst = 256 << 10
	// nearby is how far the kernel's reads, of which several are under way, may come out of order, in bytes.
	nearby = 1 << 20
)

// ahead is what was read of an open file before somebody asked for it, in blocks of chunkSize. What it holds is used as long as
// anything learnt of a file is, and not once the file is known to have changed: or the kernel would keep the old
// content as the new one's.
type ahead struct {
	remote *remote

	mu     sync.Mutex
	blocks map[int64]*block // by their offsets
	high   int64            // where the furthest read of the stream ended
	window int64            // how far beyond that it is read; 0: the reads are no stream
	sweep  *time.Timer      // lets go of blocks that nobody came for
	over   bool
}

type block struct {
	data []byte
	call *sftp.Call
	of   *connection
	born time.Time
	seen uint64 // what was known of the file; see node.known
}

// read reads n bytes; fewer at the file's end only. size is the file's as far as is known.
func (r *ahead) read(conn *connection, file *sftp.File, n int, off, size int64, seen uint64) ([]byte, error) {
	if !conn.Has(sftpwire.ExtLimits) { // a short answer is not the end there
		return readNow(file, n, off)
	}
	wanted := r.want(conn, file, n, off, size, seen)
	if wanted == nil {
		return readNow(file, n, off)
	}
	var whole []byte
	for i, b := range wanted {
		got, err := b.call.Count()
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err != nil {
			r.drop(off - off%chunkSize + int64(i)*chunkSize)
			return nil, err
		}
		from := int64(0)
		if i == 0 {
			from = off % chunkSize
		}
		to := min(int64(got), from+int64(n-len(whole)))
		if from < to {
			if whole == nil && to-from == int64(n) {
				whole = b.data[from:to:to]
			} else {
				whole = append(whole, b.data[from:to]...)
			}
		}
		if got < chunkSize { // it is the end now; what comes behind it tomorrow is asked for then
			r.drop(off - off%chunkSize + int64(i)*chunkSize)
			break
		}
	}
	return whole, nil
}

func readNow(file *sftp.File, n int, off int64) ([]byte, error) {
	p := make([]byte, n)
	got, err := file.ReadAt(p, off)
	return p[:got], err
}

// want returns the blocks that hold a read, and has those behind it sent for; nil when the reads are no stream.
func (r *ahead) want(conn *connection, file *sftp.File, n int, off, size int64, seen uint64) []*block {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := off + int64(n)
	switch apart := off - r.high; {
	case r.over || r.window == 0 && apart != 0 || apart > nearby || apart < -nearby || off == 0 && end >= size:
		r.window, r.high = 0, end
		r.dropLocked(func(int64, *block) bool { return true })
		return nil
	case r.window == 0:
		r.window = aheadFirst
	case apart >= 0 && r.lateLocked(off):
		r.window = min(2*r.window, aheadFile)
	}
	r.high = max(r.high, end)
	r.dropLocked(func(at int64, b *block) bool {
		return at+chunkSize <= r.high-nearby || b.of != conn || b.seen != seen || time.Since(b.born) > fresh
	})
	var wanted []*block
	until := max(end, min(r.high+r.window, size))
	for at := off - off%chunkSize; at < until; at += chunkSize {
		b := r.blocks[at]
		if b == nil {
			if at >= end && r.remote.ahead.Load() >= aheadAll {
				break
			}
			b = &block{data: make([]byte, chunkSize), of: conn, born: time.Now(), seen: seen}
			b.call = file.Read(b.data, at)
			r.keepLocked(at, b)
		}
		if at < end {
			wanted = append(wanted, b)
		}
	}
	return wanted
}

// lateLocked tells whether a block has not come.
func (r *ahead) lateLocked(off int64) bool {
	b := r.blocks[off-off%chunkSize]
	if b == nil {
		return true
	}
	select {
	case <-b.call.Done():
		return false
	default:
		return true
	}
}

func (r *ahead) keepLocked(at int64, b *block) {
	if r.blocks == nil {
		r.blocks = map[int64]*block{}
	}
	r.blocks[at] = b
	r.remote.ahead.Add(chunkSize)
	if r.sweep == nil {
		r.sweep = time.AfterFunc(fresh, r.sweepStale)
	}
}

// sweepStale runs from time to time while there are blocks.
func (r *ahead) sweepStale() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(func(_ int64, b *block) bool { return time.Since(b.born) > fresh })
	r.window = min(r.window, aheadFirst) // nobody came in time
	if len(r.blocks) == 0 {
		r.sweep = nil
		return
	}
	r.sweep.Reset(fresh)
}

func (r *ahead) dropLocked(which func(at int64, b *block) bool) {
	for at, b := range r.blocks {
		if which(at, b) {
			delete(r.blocks, at)
			r.remote.ahead.Add(-chunkSize)
		}
	}
}

func (r *ahead) drop(at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(func(which int64, _ *block) bool { return which == at })
}

// close lets go of all.
func (r *ahead) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.dropLocked(func(int64, *block) bool { return true })
	if r.sweep != nil {
		r.sweep.Stop()
		r.sweep = nil
	}
}
