package volumes

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/pkg/sftp"
)

// handle is an open file. On each new connection it is opened again when it is used.
type handle struct {
	node  *node
	flags int // for opening again
	// appends says that the pod puts what is written at the file's end, so in the order in which it arrives.
	appends bool

	mu   sync.Mutex
	file *sftp.File
	of   *connection
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
func (n *node) newHandle(flags int, file *sftp.File, of *connection) *handle {
	h := &handle{node: n, flags: flags &^ onceFlags, appends: flags&syscall.O_APPEND != 0, file: file, of: of}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = map[*handle]struct{}{}
	}
	n.open[h] = struct{}{}
	return h
}

// opened is a file on the connection on which it was opened.
type opened struct {
	file *sftp.File
	of   *connection
	st   os.FileInfo
}

// Open implements fs.NodeOpener.
func (n *node) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	at, how := n.remotePath(), openFlags(flags)
	o, errno := do(ctx, n.vol.remote, func(a attempt) (opened, error) {
		file, err := a.client.OpenFile(at, how)
		return opened{file: file, of: a.client}, err
	})
	if errno != 0 {
		return nil, 0, errno
	}
	return n.newHandle(how, o.file, o.of), 0, 0
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fusefs.Inode, fusefs.FileHandle, uint32, syscall.Errno) {
	at, how := n.child(name), openFlags(flags)|syscall.O_CREAT
	n.remember(nil)
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
	return child, made.newHandle(how, o.file, o.of), 0, 0
}

// create opens a file that may not exist yet, and gives it its mode if it was made.
func create(a attempt, at string, flags int, mode uint32) (opened, error) {
	var before os.FileInfo
	if mode&0o7777 != madeFile && flags&syscall.O_EXCL == 0 {
		before, _ = a.client.Lstat(at)
	}
	file, err := a.client.OpenFile(at, flags)
	if err != nil {
		return opened{}, err
	}
	if mode&0o7777 != madeFile && before == nil {
		err = file.Chmod(modeOf(mode))
	}
	var st os.FileInfo
	if err == nil {
		st, err = file.Stat()
	}
	if err != nil {
		return opened{}, errors.Join(err, file.Close())
	}
	return opened{file, a.client, st}, nil
}

// on returns the file on an attempt's connection.
func (h *handle) on(a attempt) (*sftp.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == a.client {
		return h.file, nil
	}
	file, err := a.client.OpenFile(h.node.remotePath(), h.flags)
	if errors.Is(err, os.ErrNotExist) {
		return nil, syscall.ESTALE // removed, and closed by the broken connection
	}
	if err != nil {
		return nil, err
	}
	h.file, h.of = file, a.client
	return file, nil
}

func (h *handle) stat(a attempt) (os.FileInfo, error) {
	file, err := h.on(a)
	if err != nil {
		return nil, err
	}
	return file.Stat()
}

// buffers are of the longest read. What an operation that was given up may still write to does not come back.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxTransfer); return &b }}

// Read implements fs.FileReader.
func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	buf, _ := buffers.Get().(*[]byte)
	if len(dest) > len(*buf) {
		*buf = make([]byte, len(dest))
	}
	into := (*buf)[:len(dest)]
	n, errno := do(ctx, h.node.vol.remote, func(a attempt) (int, error) {
		file, err := h.on(a)
		if err != nil {
			return 0, err
		}
		n, err := file.ReadAt(into, off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return n, err
	})
	if errno != 0 {
		return nil, errno
	}
	copy(dest, into[:n])
	buffers.Put(buf)
	return fuse.ReadResultData(dest[:n]), 0
}

// Write implements fs.FileWriter. It returns when the pod has written.
func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	buf, _ := buffers.Get().(*[]byte)
	if len(data) > len(*buf) {
		*buf = make([]byte, len(data))
	}
	from := (*buf)[:copy(*buf, data)]
	n, errno := do(ctx, h.node.vol.remote, func(a attempt) (int, error) {
		file, err := h.on(a)
		if err != nil {
			return 0, err
		}
		if h.appends {
			return writeInOrder(file, from, off)
		}
		return file.WriteAt(from, off)
	})
	if errno != 0 {
		return 0, errno
	}
	buffers.Put(buf)
	return uint32(n), 0
}

// writeInOrder sends a packet when the last one is written.
func writeInOrder(file *sftp.File, p []byte, off int64) (int, error) {
	const one = 32 << 10 // every server takes so much at once
	written := 0
	for written < len(p) {
		n, err := file.WriteAt(p[written:min(written+one, len(p))], off+int64(written))
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Flush implements fs.FileFlusher: nothing waits to be written.
func (h *handle) Flush(context.Context) syscall.Errno { return 0 }

// Fsync implements fs.FileFsyncer. What was written is in the pod's kernel; a server that can takes it to its disk.
func (h *handle) Fsync(ctx context.Context, _ uint32) syscall.Errno {
	_, errno := do(ctx, h.node.vol.remote, func(a attempt) (struct{}, error) {
		if _, able := a.client.HasExtension("fsync@openssh.com"); !able {
			return struct{}{}, nil
		}
		file, err := h.on(a)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, file.Sync()
	})
	return errno
}

// Release implements fs.FileReleaser.
func (h *handle) Release(ctx context.Context) syscall.Errno {
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
		return struct{}{}, file.Close()
	})
	return errno
}
