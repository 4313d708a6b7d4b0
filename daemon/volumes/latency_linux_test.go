package volumes

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
	"github.com/teleswap/teleswap/proxy/sftpwire"
)

const (
	askRead, askWrite = 5, 6
)

// far is a pod with one file, at the end of a long line. It speaks SFTP as the agent does.
type far struct {
	t     testing.TB
	delay time.Duration // there and back

	mu       sync.Mutex
	content  []byte
	modified uint32
	held     bool // requests to write are not answered
	waiting  []func()
	full     bool // no more is taken: ENOSPC
	asked    map[byte]int
	sizes    map[byte][]int // of each READ and WRITE, in bytes
	flying   map[byte]int   // not answered yet
	most     map[byte]int   // the most that flew at a time
	torn     bool           // a WRITE came that does not go on where the last one ended
	end      int64          // of the last WRITE
	conns    []net.Conn
}

func newFar(t testing.TB, size int) *far {
	f := &far{t: t, content: make([]byte, size), modified: 1, asked: map[byte]int{}, sizes: map[byte][]int{}, flying: map[byte]int{}, most: map[byte]int{}}
	_, _ = rand.NewChaCha8([32]byte{}).Read(f.content)
	return f
}

func (f *far) dial(context.Context) (net.Conn, error) {
	near, end := net.Pipe()
	f.mu.Lock()
	f.conns = append(f.conns, end)
	f.mu.Unlock()
	answers := make(chan timed, 4096)
	go f.serve(end, answers)
	go func() { // ends with serve
		for a := range answers {
			time.Sleep(time.Until(a.due)) // the line's length
			if _, err := end.Write(a.packet); err != nil {
				_ = end.Close()
			}
		}
	}()
	return near, nil
}

type timed struct {
	due    time.Time
	packet []byte
}

func (f *far) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns, f.waiting, f.held = nil, nil, false
	clear(f.flying)
}

func packet(kind byte, id uint32, fields ...any) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, kind}, id)
	for _, field := range fields {
		switch v := field.(type) {
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
		case []byte:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// serve ends with conn.
func (f *far) serve(conn net.Conn, answers chan timed) {
	defer close(answers)
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		p := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(r, p); err != nil {
			return
		}
		f.mu.Lock()
		if p[0] == 1 {
			answers <- timed{time.Now(), packet(2, 3, "fsync@openssh.com", "1", sftpwire.ExtLimits, "1", sftpwire.ExtOrderedWrites, "1")}
			f.mu.Unlock()
			continue
		}
		kind, id := p[0], binary.BigEndian.Uint32(p[1:])
		f.asked[kind]++
		f.flying[kind]++
		f.most[kind] = max(f.most[kind], f.flying[kind])
		reply := f.reply(kind, id, p[5:])
		due := time.Now().Add(f.delay)
		answer := func() {
			f.flying[kind]--
			answers <- timed{due, reply}
		}
		if kind == askWrite && f.held {
			f.waiting = append(f.waiting, answer)
		} else {
			answer()
			f.flying[kind]++ // until it has arrived
			time.AfterFunc(f.delay, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.flying[kind]--
			})
		}
		f.mu.Unlock()
	}
}

func (f *far) reply(kind byte, id uint32, body []byte) []byte {
	field := func() []byte {
		n := binary.BigEndian.Uint32(body)
		s := body[4 : 4+n]
		body = body[4+n:]
		return s
	}
	switch kind {
	case 3: // OPEN
		return packet(102, id, "h")
	case askRead:
		field()
		off, n := int64(binary.BigEndian.Uint64(body)), int64(binary.BigEndian.Uint32(body[8:]))
		f.sizes[kind] = append(f.sizes[kind], int(n))
		if off >= int64(len(f.content)) {
			return packet(101, id, uint32(1), "", "")
		}
		return packet(103, id, f.content[off:min(off+n, int64(len(f.content)))])
	case askWrite:
		field()
		off := int64(binary.BigEndian.Uint64(body))
		body = body[8:]
		data := field()
		f.sizes[kind] = append(f.sizes[kind], len(data))
		if f.full {
			return packet(101, id, uint32(4), "ENOSPC: no space left on device", "en")
		}
		f.torn = f.torn || off != f.end
		f.end = off + int64(len(data))
		if f.end > int64(len(f.content)) {
			f.content = append(f.content, make([]byte, f.end-int64(len(f.content)))...)
		}
		copy(f.content[off:], data)
		f.modified++
		return packet(101, id, uint32(0), "", "")
	case 7, 8: // LSTAT, FSTAT
		return packet(105, id, uint32(1|4|8), uint64(len(f.content)), uint32(syscall.S_IFREG|0o644), f.modified, f.modified)
	}
	return packet(101, id, uint32(0), "", "")
}

// release answers what was held, and holds nothing more.
func (f *far) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, answer := range f.waiting {
		answer()
	}
	f.waiting, f.held = nil, false
}

func (f *far) count(kind byte) (asked, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[kind], f.most[kind]
}

// file is the far file as the sandbox's file system has it.
func (f *far) file() (*node, *lines) {
	warned := &lines{}
	r := newRemote(f.t.Context(), Config{Files: f.dial, Warn: warned.add, Redial: time.Millisecond}.withDefaults())
	f.t.Cleanup(r.close)
	return newNode(&live{remote: r, base: "/far", file: true}), warned
}

func (f *far) open(n *node, flags uint32) *handle {
	f.t.Helper()
	h, _, errno := n.Open(f.t.Context(), flags)
	if errno != 0 {
		f.t.Fatal(errno)
	}
	n.learn(&sftp.Attr{Size: int64(len(f.content)), Modified: time.Unix(1, 0)})
	return h.(*handle)
}

func (f *far) close(h *handle) {
	f.t.Helper()
	if errno := h.Release(f.t.Context()); errno != 0 {
		f.t.Errorf("release: %v", errno)
	}
}

func mustWrite(t *testing.T, h *handle, p []byte, off int64) {
	t.Helper()
	if n, errno := h.Write(t.Context(), p, off); int(n) != len(p) || errno != 0 {
		t.Fatalf("wrote %d of %d at %d: %v", n, len(p), off, errno)
	}
}

func readAll(t *testing.T, h *handle, n int, off int64) []byte {
	t.Helper()
	res, errno := h.Read(t.Context(), make([]byte, n), off)
	if errno != 0 {
		t.Fatalf("read at %d: %v", off, errno)
	}
	b, _ := res.Bytes(nil)
	return b
}

// TestWritesDoNotWait: what was written is on its way, in order, while no answer has come; but not without bound.
func TestWritesDoNotWait(t *testing.T) {
	f := newFar(t, 0)
	f.held = true
	n, _ := f.file()
	h := f.open(n, syscall.O_WRONLY)
	want := make([]byte, 2*behindFile)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	const one = 1 << 20
	for off := 0; off < behindFile; off += one {
		mustWrite(t, h, want[off:off+one], int64(off))
	}
	eventually(t, "all of it is sent", func() bool { asked, _ := f.count(askWrite); return asked == behindFile/chunkSize })
	over := make(chan struct{})
	go func() { // ends when answers come
		defer close(over)
		for off := behindFile; off < len(want); off += one {
			_, _ = h.Write(t.Context(), want[off:off+one], int64(off))
		}
	}()
	f.release()
	<-over
	if errno := h.Fsync(t.Context(), 0); errno != 0 {
		t.Error(errno)
	}
	asked, most := f.count(askWrite)
	if !bytes.Equal(f.content, want) || f.torn || asked != len(want)/chunkSize || most > behindFile/chunkSize+1 {
		t.Errorf("same: %v, out of order: %v, %d requests, %d at a time", bytes.Equal(f.content, want), f.torn, asked, most)
	}
	f.close(h)
}

// TestSmallWritesShareRequests: many small writes are few round trips.
func TestSmallWritesShareRequests(t *testing.T) {
	f := newFar(t, 0)
	f.held = true
	n, _ := f.file()
	h := f.open(n, syscall.O_WRONLY|syscall.O_APPEND)
	for i := range 1000 {
		mustWrite(t, h, bytes.Repeat([]byte{byte(i)}, 100), int64(i)*100)
	}
	f.release()
	if errno := h.Flush(t.Context()); errno != 0 {
		t.Error(errno)
	}
	if asked, _ := f.count(askWrite); asked > 3 || len(f.content) != 100_000 || f.torn {
		t.Errorf("%d requests for %d bytes, torn: %v", asked, len(f.content), f.torn)
	}
	f.close(h)
}

// TestWriteFailureIsTold: a write that fails after it has returned is told by the next, by fsync and by close; and to the user
// where nobody asks.
func TestWriteFailureIsTold(t *testing.T) {
	f := newFar(t, 0)
	n, warned := f.file()
	h := f.open(n, syscall.O_WRONLY)
	f.full = true
	mustWrite(t, h, []byte("one"), 0)
	for range 2 { // a child's close tells the child alone
		if errno := h.Flush(t.Context()); errno != syscall.ENOSPC {
			t.Errorf("close: %v", errno)
		}
	}
	if errno := h.Fsync(t.Context(), 0); errno != syscall.ENOSPC {
		t.Errorf("fsync: %v", errno)
	}
	if errno := h.Fsync(t.Context(), 0); errno != 0 {
		t.Errorf("a second fsync: %v", errno)
	}
	mustWrite(t, h, []byte("two"), 0)
	if errno := n.settle(t.Context()); errno != 0 {
		t.Error(errno)
	}
	if _, errno := h.Write(t.Context(), []byte("three"), 3); errno != syscall.ENOSPC {
		t.Errorf("the next write: %v", errno)
	}
	mustWrite(t, h, []byte("four"), 0)
	f.close(h)
	if got := warned.text(); !strings.Contains(got, "/far") || !strings.Contains(got, "no space") {
		t.Errorf("the user was told %q", got)
	}
	synced := f.open(n, syscall.O_WRONLY|syscall.O_DSYNC)
	if _, errno := synced.Write(t.Context(), []byte("five"), 0); errno != syscall.ENOSPC {
		t.Errorf("with O_DSYNC: %v", errno)
	}
	f.close(synced)
}

// TestWritesSurviveABreak: what was not answered is written again on the next connection.
func TestWritesSurviveABreak(t *testing.T) {
	f := newFar(t, 0)
	f.held = true
	n, _ := f.file()
	h := f.open(n, syscall.O_WRONLY|syscall.O_APPEND)
	want := bytes.Repeat([]byte("0123456789abcdef"), 4*chunkSize/16)
	mustWrite(t, h, want, 0)
	eventually(t, "it is sent", func() bool { asked, _ := f.count(askWrite); return asked == 4 })
	f.cut()
	if errno := h.Flush(t.Context()); errno != 0 || !bytes.Equal(f.content, want) {
		t.Errorf("%v, the same: %v", errno, bytes.Equal(f.content, want))
	}
	f.close(h)
}

// TestReadersWaitForWriters: who reads or looks sees what was written before, by whichever open file.
func TestReadersWaitForWriters(t *testing.T) {
	f := newFar(t, 100)
	f.delay = 40 * time.Millisecond
	n, _ := f.file()
	w, r := f.open(n, syscall.O_WRONLY), f.open(n, syscall.O_RDWR)
	for i := range 5 {
		mustWrite(t, w, []byte{byte(i), 1}, int64(100+2*i))
		mustWrite(t, r, []byte{2}, int64(101+2*i)) // over it
		if got := readAll(t, r, 200, 100); len(got) != 2*i+2 || got[2*i+1] != 2 {
			t.Errorf("round %d: read %v", i, got)
		}
	}
	mustWrite(t, w, []byte("more"), 110)
	var out fuse.AttrOut
	if errno := n.Getattr(t.Context(), nil, &out); errno != 0 || out.Size != 114 {
		t.Errorf("getattr: %v, %d bytes", errno, out.Size)
	}
	f.close(w)
	f.close(r)
}

// TestReadsAheadFillTheLine: on a line of 20 ms each way a sequential reader has megabytes under way, but not
// more than it may keep.
func TestReadsAheadFillTheLine(t *testing.T) {
	const size = 64<<20 + 5000
	f := newFar(t, size)
	f.delay = 40 * time.Millisecond
	n, _ := f.file()
	h := f.open(n, syscall.O_RDONLY)
	for off := 0; off < size; off += chunkSize {
		if got := readAll(t, h, chunkSize, int64(off)); !bytes.Equal(got, f.content[off:min(off+chunkSize, size)]) {
			t.Fatalf("at %d: %d bytes, others", off, len(got))
		}
	}
	asked, most := f.count(askRead)
	// A machine that stalls for a second makes some stale, which are asked for again.
	if asked > 2*size/chunkSize || most < 16 || most > (aheadFile+nearby)/chunkSize+2 {
		t.Errorf("%d requests for %d parts, %d at a time", asked, size/chunkSize+1, most)
	}
	f.close(h)
	if left := n.vol.ahead.Load(); left != 0 {
		t.Errorf("%d bytes are kept", left)
	}
}

// TestRandomReadsAskForNoMore than they want.
func TestRandomReadsAskForNoMore(t *testing.T) {
	f := newFar(t, 64<<20)
	n, _ := f.file()
	h := f.open(n, syscall.O_RDONLY)
	for i := range 100 {
		off := int64(i*37%64)<<20 + 4096
		if got := readAll(t, h, 4096, off); !bytes.Equal(got, f.content[off:off+4096]) {
			t.Fatalf("at %d: others", off)
		}
	}
	for _, size := range f.sizes[askRead] {
		if size != 4096 {
			t.Errorf("a request for %d bytes", size)
		}
	}
	if asked, _ := f.count(askRead); asked != 100 {
		t.Errorf("%d requests", asked)
	}
	f.close(h)
}

// TestReadAheadForgets what was read before the file was seen to change.
func TestReadAheadForgets(t *testing.T) {
	f := newFar(t, 4<<20)
	n, _ := f.file()
	h := f.open(n, syscall.O_RDONLY)
	for off := range int64(4) {
		readAll(t, h, chunkSize, off*chunkSize)
	}
	if asked, _ := f.count(askRead); asked <= 4 {
		t.Fatal("nothing was read ahead")
	}
	f.mu.Lock()
	clear(f.content)
	f.mu.Unlock()
	n.learn(&sftp.Attr{Size: 4 << 20, Modified: time.Unix(2, 0)}) // a getattr told
	if got := readAll(t, h, chunkSize, 4*chunkSize); !bytes.Equal(got, make([]byte, chunkSize)) {
		t.Error("the old content")
	}
	f.close(h)
}
