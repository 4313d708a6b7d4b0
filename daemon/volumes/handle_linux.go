package volumes

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// handle is an open file. On each new connection it is opened again when it is used.
type handle struct {
	node  *node
	flags int // for opening again
	// synced says that a write returns when it is on the pod's disk: O_SYNC, O_DSYNC.
	synced bool
	ahead  ahead

	mu   sync.Mutex
	file *sftp.File
	of   *connection

	// The remote's pending.mu guards these: what became of a write after it had returned, and whether somebody was told.
	failed syscall.Errno
	told   bool
}

var (
	_ fusefs.FileReader   = (*handle)(nil)
	_ fusefs.FileWriter   = (*handle)(nil)
	_ fusefs.FileReleaser = (*handle)(nil)
	_ fusefs.FileFsyncer  = (*handle)(nil)
	_ fusefs.FileFlusher  = (*handle)(nil)
)

// openFlags are what SFTP knows of open(2)'s.
func openFlags(flags uint32) int {
	return int(flags) & (syscall.O_ACCMODE | syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC | syscall.O_APPEND)
}

// onceFlags are not for opening again. O_APPEND is one of them, so that what is written again after a break is not written
// twice: the kernel sends offsets.
const onceFlags = syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC | syscall.O_APPEND

// newHandle registers an open file with its node.
func (n *node) newHandle(flags int, asked uint32, o opened) *handle {
	h := &handle{
		node: n, flags: flags &^ onceFlags, synced: asked&syscall.O_DSYNC != 0, // which is a part of O_SYNC
		ahead: ahead{remote: n.vol.remote}, file: o.file, of: o.of,
	}
	if o.st != nil {
		n.learn(o.st)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = map[*handle]struct{}{}
	}
	n.open[h] = struct{}{}
	return h
}

// opened is a file on the connection on which it was opened; its attributes are nil if the pod did not tell them.
type opened struct {
	file *sftp.File
	of   *connection
	st   *sftp.Attr
}

func open(a attempt, at string, flags int, mode uint32) (opened, error) {
	file, st, err := a.client.Open(at, flags, mode).Opened()
	return opened{file: file, of: a.client, st: st}, err
}

// Open implements fs.NodeOpener.
func (n *node) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if errno := n.settle(ctx); errno != 0 {
		return nil, 0, errno
	}
	at, how := n.remotePath(), openFlags(flags)
	o, errno := do(ctx, n.vol.remote, func(a attempt) (opened, error) { return open(a, at, how, madeFile) })
	if errno != 0 {
		return nil, 0, errno
	}
	return n.newHandle(how, flags, o), 0, 0
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fusefs.Inode, fusefs.FileHandle, uint32, syscall.Errno) {
	at, how := n.child(name), openFlags(flags)|syscall.O_CREAT
	n.forget()
	if errno := n.vol.settleAll(ctx); errno != 0 {
		return nil, nil, 0, errno
	}
	o, errno := do(ctx, n.vol.remote, func(a attempt) (opened, error) {
		how := how
		if a.again {
			how &^= syscall.O_EXCL // it may be ours already
		}
		return create(a, at, how, mode)
	})
	if errno != 0 {
		return nil, nil, 0, errno
	}
	child := n.inode(ctx, name, o.st, out)
	made, ok := child.Operations().(*node)
	if !ok {
		return nil, nil, 0, syscall.EIO
	}
	return child, made.newHandle(how, flags, o), 0, 0
}

// create opens a file that may not exist yet, and gives it its mode if it was made. Mostly it does not exist, or the kernel
// would have opened it; so that is tried first.
func create(a attempt, at string, flags int, mode uint32) (opened, error) {
	o, err := open(a, at, flags|syscall.O_EXCL, mode&0o7777)
	made := err == nil
	if errnoOf(err) == syscall.EEXIST && flags&syscall.O_EXCL == 0 {
		o, err = open(a, at, flags, mode&0o7777)
	}
	if err != nil {
		return opened{}, err
	}
	if o.st == nil {
		o.st, err = o.file.Stat().Attr()
	}
	if perm := mode & 0o7777; err == nil && made && o.st.Mode&0o7777 != perm { // not by our agent
		if err = o.file.Setstat(sftp.Change{Mode: &perm}).Err(); err == nil {
			o.st, err = o.file.Stat().Attr()
		}
	}
	if err != nil {
		o.file.Close()
		return opened{}, err
	}
	return o, nil
}

// on returns the file on an attempt's connection.
func (h *handle) on(a attempt) (*sftp.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == a.client {
		return h.file, nil
	}
	o, err := open(a, h.node.remotePath(), h.flags, madeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, syscall.ESTALE // removed, and closed by the broken connection
	}
	if err != nil {
		return nil, err
	}
	h.file, h.of = o.file, a.client
	return o.file, nil
}

// Read implements fs.FileReader.
func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := h.node.settle(ctx); errno != 0 {
		return nil, errno
	}
	size, seen := h.node.known()
	got, errno := do(ctx, h.node.vol.remote, func(a attempt) ([]byte, error) {
		file, err := h.on(a)
		if err != nil {
			return nil, err
		}
		return h.ahead.read(a.client, file, len(dest), off, size, seen)
	})
	if errno != 0 {
		return nil, errno
	}
	return fuse.ReadResultData(got), 0
}

// Write implements fs.FileWriter. It returns when the data is on its way; what becomes of that the next write, fsync or close
// tells, and all that looks at the file waits for it.
func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := h.failure(true); errno != 0 {
		return 0, errno
	}
	h.node.changed()
	if errno := h.node.behind.add(ctx, h, data, off); errno != 0 {
		return 0, errno
	}
	if h.synced {
		if errno := h.Fsync(ctx, 0); errno != 0 {
			return 0, errno
		}
	}
	return uint32(len(data)), 0
}

// failure is the error of a write that had returned. Who is told by a write or fsync may go on after it; close tells it whoever closes
// first, which may be a child that knows nothing of it, so it stays.
func (h *handle) failure(forget bool) syscall.Errno {
	w := &h.node.vol.writes
	w.mu.Lock()
	defer w.mu.Unlock()
	errno := h.failed
	h.told = true
	if forget {
		h.failed = 0
	}
	return errno
}

// Flush implements fs.FileFlusher: who closes learns what became of what he wrote, and from then on the pod has it.
func (h *handle) Flush(ctx context.Context) syscall.Errno {
	if errno := h.node.settle(ctx); errno != 0 {
		return errno
	}
	return h.failure(false)
}

// Fsync implements fs.FileFsyncer. A server that can takes what was written to its disk.
func (h *handle) Fsync(ctx context.Context, _ uint32) syscall.Errno {
	if errno := h.node.settle(ctx); errno != 0 {
		return errno
	}
	if errno := h.failure(true); errno != 0 {
		return errno
	}
	_, errno := do(ctx, h.node.vol.remote, func(a attempt) (struct{}, error) {
		if !a.client.Has(sftpwire.ExtFsync) {
			return struct{}{}, nil
		}
		file, err := h.on(a)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, file.Sync().Err()
	})
	return errno
}

// Release implements fs.FileReleaser. Nobody waits for it.
func (h *handle) Release(ctx context.Context) syscall.Errno {
	_ = h.node.settle(ctx)
	w := &h.node.vol.writes
	w.mu.Lock()
	failed, told := h.failed, h.told
	w.mu.Unlock()
	if failed != 0 && !told {
		h.node.vol.warn("the pod did not take all that was written to %s: %v", h.node.remotePath(), failed)
	}
	h.ahead.close()
	h.node.mu.Lock()
	delete(h.node.open, h)
	h.node.mu.Unlock()
	_, errno := do(ctx, h.node.vol.remote, func(a attempt) (struct{}, error) {
		h.mu.Lock()
		file, of := h.file, h.of
		h.mu.Unlock()
		if of != a.client {
			return struct{}{}, nil // it went with its connection
		}
		return struct{}{}, file.Close().Err()
	})
	return errno
}
