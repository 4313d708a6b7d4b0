package volumes

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
	"github.com/teleswap/teleswap/proxy/sftpwire"
)

const (
	// fresh is how long what was learnt of a file holds: a change of the other side is seen a second later at most.
	fresh = time.Second
	// blockSize is what programs are told to write in: a request's worth. The C library's stdio takes the word for it.
	blockSize         = 128 << 10
	madeFile, madeDir = 0o644, 0o755
)

// live is one live volume.
type live struct {
	*remote
	base     string // in the pod
	uid, gid uint32 // whose everything is, as far as the sandbox sees
	file     bool   // base is the one file of the volume
}

// node is a file of any kind in a live volume. It has no more identity than its path, which the tree of nodes keeps.
type node struct {
	fusefs.Inode
	vol *live

	behind behind

	mu      sync.Mutex
	listing map[string]*sftp.Attr // of a directory, for the look-ups that follow a listing
	asked   time.Time             // when it was asked for
	listed  time.Time             // when it had come
	open    map[*handle]struct{}
	crowd   crowd
	// size and modified are what was learnt last of a file; seen counts the changes.
	size     int64
	modified time.Time
	seen     uint64
}

func newNode(vol *live) *node { return &node{vol: vol, behind: behind{remote: vol.remote}} }

// learn takes note of a file's attributes.
func (n *node) learn(st *sftp.Attr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if st.Size != n.size || !st.Modified.Equal(n.modified) {
		n.size, n.modified = st.Size, st.Modified
		n.seen++
	}
}

// changed says that what was read of the file is no longer so.
func (n *node) changed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen++
}

// known is the file's size as far as is known, and a number that is another one when the file is.
func (n *node) known() (size int64, seen uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.size, n.seen
}

// settle waits until the pod has what was written to the file.
func (n *node) settle(ctx context.Context) syscall.Errno { return n.vol.settle(ctx, &n.behind) }

var (
	_ fusefs.NodeLookuper       = (*node)(nil)
	_ fusefs.NodeGetattrer      = (*node)(nil)
	_ fusefs.NodeSetattrer      = (*node)(nil)
	_ fusefs.NodeReaddirer      = (*node)(nil)
	_ fusefs.NodeMkdirer        = (*node)(nil)
	_ fusefs.NodeRmdirer        = (*node)(nil)
	_ fusefs.NodeUnlinker       = (*node)(nil)
	_ fusefs.NodeRenamer        = (*node)(nil)
	_ fusefs.NodeSymlinker      = (*node)(nil)
	_ fusefs.NodeReadlinker     = (*node)(nil)
	_ fusefs.NodeLinker         = (*node)(nil)
	_ fusefs.NodeStatfser       = (*node)(nil)
	_ fusefs.NodeCreater        = (*node)(nil)
	_ fusefs.NodeOpener         = (*node)(nil)
	_ fusefs.NodeAccesser       = (*node)(nil)
	_ fusefs.NodeMknoder        = (*node)(nil)
	_ fusefs.NodeCopyFileRanger = (*node)(nil)
)

// remotePath is where the node is in the pod now.
func (n *node) remotePath() string {
	if n.vol.file {
		return n.vol.base
	}
	return path.Join(n.vol.base, n.Path(nil))
}

func (n *node) child(name string) string { return path.Join(n.remotePath(), name) }

// attributes makes the kernel's of the pod's. The owner is the sandbox's user, who may do what the agent may: the pod decides.
func (v *live) attributes(st *sftp.Attr, out *fuse.Attr) {
	out.Mode, out.Size, out.Blocks = st.Mode, uint64(st.Size), st.Blocks
	out.Blksize, out.Nlink, out.Rdev = blockSize, st.Links, st.Device
	out.Owner = fuse.Owner{Uid: v.uid, Gid: v.gid}
	out.SetTimes(&st.Accessed, &st.Modified, &st.Changed)
}

// inode is the child called name, which st describes: the one that is known, if it is of the same kind still.
func (n *node) inode(ctx context.Context, name string, st *sftp.Attr, out *fuse.EntryOut) *fusefs.Inode {
	n.vol.attributes(st, &out.Attr)
	kind := out.Mode & syscall.S_IFMT
	if known := n.GetChild(name); known != nil && known.Mode() == kind {
		if its, ok := known.Operations().(*node); ok {
			its.learn(st)
		}
		return known
	}
	made := newNode(n.vol)
	made.learn(st)
	return n.NewInode(ctx, made, fusefs.StableAttr{Mode: kind})
}

// remember keeps a listing for the look-ups that follow. asked is when it was asked for.
func (n *node) remember(entries []sftp.Entry, asked time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listing, n.asked, n.listed = make(map[string]*sftp.Attr, len(entries)), asked, time.Now()
	for _, e := range entries {
		if e.Mode&syscall.S_IFMT != 0 { // else the agent may list the directory and not enter it
			n.listing[e.Name] = e.Attr
		}
	}
}

// forget forgets a listing, since something is changed in the directory.
func (n *node) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listing = nil
}

// recall is what a fresh listing says of a name, and since when that may be so. It says it once: what is asked for again is
// asked of the pod.
func (n *node) recall(name string) (st *sftp.Attr, since time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.listed) > fresh {
		n.listing = nil
	}
	st = n.listing[name]
	delete(n.listing, name)
	return st, n.asked
}

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if own := n.special(name); own != nil {
		own.attributes(&out.Attr)
		return own.EmbeddedInode(), 0
	}
	st, since := n.recall(name)
	if written := n.childNode(name); written != nil {
		if errno := written.settle(ctx); errno != 0 {
			return nil, errno
		}
		if st != nil && written.behind.dirty(since) {
			st = nil
		}
	}
	if st != nil {
		return n.inode(ctx, name, st, out), 0
	}
	at := n.child(name)
	st, errno := do(ctx, n.vol.remote, func(a attempt) (*sftp.Attr, error) { return a.client.Lstat(at).Attr() })
	if errno != 0 {
		return nil, errno
	}
	n.lookAhead(ctx)
	return n.inode(ctx, name, st, out), 0
}

// childNode is the child of that name, if it is known.
func (n *node) childNode(name string) *node {
	child := n.GetChild(name)
	if child == nil {
		return nil
	}
	its, _ := child.Operations().(*node)
	return its
}

// Getattr implements fs.NodeGetattrer. A file that was removed while it is open still has attributes.
func (n *node) Getattr(ctx context.Context, f fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.settle(ctx); errno != 0 {
		return errno
	}
	h, _ := f.(*handle)
	at := n.remotePath()
	st, errno := do(ctx, n.vol.remote, func(a attempt) (*sftp.Attr, error) {
		if h != nil {
			return h.stat(a)
		}
		st, err := a.client.Lstat(at).Attr()
		if h := n.anyOpen(); h != nil && errors.Is(err, fs.ErrNotExist) {
			return h.stat(a)
		}
		return st, err
	})
	if errno == 0 {
		n.learn(st)
		n.vol.attributes(st, &out.Attr)
	}
	return errno
}

func (h *handle) stat(a attempt) (*sftp.Attr, error) {
	file, err := h.on(a)
	if err != nil {
		return nil, err
	}
	return file.Stat().Attr()
}

func (n *node) anyOpen() *handle {
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := range n.open {
		return h
	}
	return nil
}

// Setattr implements fs.NodeSetattrer. The owner cannot be changed, only be left as it is.
func (n *node) Setattr(ctx context.Context, f fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if uid, ok := in.GetUID(); ok && uid != n.vol.uid {
		return syscall.EPERM
	}
	if gid, ok := in.GetGID(); ok && gid != n.vol.gid {
		return syscall.EPERM
	}
	if errno := n.vol.settleAll(ctx); errno != 0 {
		return errno
	}
	h, _ := f.(*handle)
	at := n.remotePath()
	st, errno := do(ctx, n.vol.remote, func(a attempt) (*sftp.Attr, error) { return n.setattr(a, at, h, in) })
	if errno != 0 {
		return errno
	}
	n.learn(st)
	n.changed()
	n.vol.attributes(st, &out.Attr)
	out.Ino = n.StableAttr().Ino // which go-fuse sets in all other answers
	return 0
}

// setattr changes attributes and asks for what they are then, without waiting in between: the server keeps the order.
func (n *node) setattr(a attempt, at string, h *handle, in *fuse.SetAttrIn) (*sftp.Attr, error) {
	set, stat := a.client.Setstat, func() *sftp.Call { return a.client.Lstat(at) }
	if n.StableAttr().Mode == syscall.S_IFLNK && a.client.Has(sftpwire.ExtLsetstat) {
		set = a.client.Lsetstat
	}
	if h != nil {
		file, err := h.on(a)
		if err != nil {
			return nil, err
		}
		set, stat = func(_ string, ch sftp.Change) *sftp.Call { return file.Setstat(ch) }, file.Stat
	}
	var ch sftp.Change
	if size, ok := in.GetSize(); ok {
		long := int64(size)
		ch.Size = &long
	}
	if mode, ok := in.GetMode(); ok {
		perm := mode & 0o7777
		ch.Mode = &perm
	}
	access, setAccess := in.GetATime()
	modified, setModified := in.GetMTime()
	if setAccess || setModified {
		ch.Accessed, ch.Modified = &access, &modified
	}
	if setAccess != setModified { // SFTP sets both or none
		st, err := stat().Attr()
		if err != nil {
			return nil, err
		}
		if !setModified {
			modified = st.Modified
		} else {
			access = st.Accessed
		}
	}
	done, now := set(at, ch), stat()
	if err := done.Err(); err != nil {
		return nil, err
	}
	return now.Attr()
}

// Readdir implements fs.NodeReaddirer.
func (n *node) Readdir(ctx context.Context) (fusefs.DirStream, syscall.Errno) {
	at := n.remotePath()
	asked := time.Now()
	entries, errno := do(ctx, n.vol.remote, func(a attempt) ([]sftp.Entry, error) {
		entries, _, err := a.client.ReadDir(at, 0)
		return entries, err
	})
	if errno != 0 {
		return nil, errno
	}
	n.remember(entries, asked)
	n.mu.Lock()
	n.crowd.size, n.crowd.not = len(entries), time.Time{}
	n.mu.Unlock()
	list := make([]fuse.DirEntry, 0, len(entries))
	for _, e := range entries {
		list = append(list, fuse.DirEntry{Name: e.Name, Mode: e.Mode & syscall.S_IFMT})
	}
	for name, child := range n.Children() {
		if own, ok := child.Operations().(*special); ok {
			list = append(list, fuse.DirEntry{Name: name, Mode: own.StableAttr().Mode})
		}
	}
	return fusefs.NewListDirStream(list), 0
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	perm := mode & 0o7777
	return n.add(ctx, name, out, &perm, func(a attempt, at string) *sftp.Call { return a.client.Mkdir(at, perm) })
}

// Symlink implements fs.NodeSymlinker.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	return n.add(ctx, name, out, nil, func(a attempt, at string) *sftp.Call { return a.client.Symlink(target, at) })
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fusefs.InodeEmbedder, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	from, ok := target.(*node)
	if !ok {
		return nil, syscall.EXDEV
	}
	old := from.remotePath()
	_, errno := n.add(ctx, name, out, nil, func(a attempt, at string) *sftp.Call { return a.client.Link(old, at) })
	return from.EmbeddedInode(), errno
}

// add makes a child and looks at what was made, without waiting in between. perm is the mode that it is to have; nil: any.
func (n *node) add(ctx context.Context, name string, out *fuse.EntryOut, perm *uint32, makeIt func(attempt, string) *sftp.Call) (*fusefs.Inode, syscall.Errno) {
	at := n.child(name)
	n.forget()
	if errno := n.vol.settleAll(ctx); errno != 0 {
		return nil, errno
	}
	st, errno := do(ctx, n.vol.remote, func(a attempt) (*sftp.Attr, error) {
		done, now := makeIt(a, at), a.client.Lstat(at)
		if err := a.made(done.Err()); err != nil {
			return nil, err
		}
		st, err := now.Attr()
		if err == nil && perm != nil && st.Mode&0o7777&^syscall.S_ISGID != *perm&^syscall.S_ISGID { // not by our agent
			done, now = a.client.Setstat(at, sftp.Change{Mode: perm}), a.client.Lstat(at)
			if err := done.Err(); err != nil {
				return nil, err
			}
			st, err = now.Attr()
		}
		return st, err
	})
	if errno != 0 {
		return nil, errno
	}
	return n.inode(ctx, name, st, out), 0
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if n.special(name) != nil {
		return 0
	}
	return n.remove(ctx, name, func(a attempt, at string) error { return a.client.Remove(at).Err() })
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.remove(ctx, name, func(a attempt, at string) error { return a.client.Rmdir(at).Err() })
}

func (n *node) remove(ctx context.Context, name string, removeIt func(attempt, string) error) syscall.Errno {
	at := n.child(name)
	n.forget()
	if errno := n.vol.settleAll(ctx); errno != 0 {
		return errno
	}
	_, errno := do(ctx, n.vol.remote, func(a attempt) (struct{}, error) {
		err := removeIt(a, at)
		if a.again && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return struct{}{}, err
	})
	return errno
}

// renameNoReplace is RENAME_NOREPLACE of renameat2(2).
const renameNoReplace = 1

// Rename implements fs.NodeRenamer. That nothing is replaced is asked for beforehand, not promised: SFTP has no such thing.
func (n *node) Rename(ctx context.Context, name string, parent fusefs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := parent.(*node)
	if !ok {
		return syscall.EXDEV
	}
	if flags&^renameNoReplace != 0 {
		return syscall.EINVAL
	}
	if n.special(name) != nil {
		return to.takeSpecial(ctx, newName, flags)
	}
	from, target := n.child(name), to.child(newName)
	n.forget()
	to.forget()
	if errno := n.vol.settleAll(ctx); errno != 0 {
		return errno
	}
	_, errno := do(ctx, n.vol.remote, func(a attempt) (struct{}, error) {
		if flags&renameNoReplace != 0 && !a.again {
			if _, err := a.client.Lstat(target).Attr(); err == nil {
				return struct{}{}, syscall.EEXIST
			}
		}
		err := a.client.Rename(from, target).Err()
		if a.again && errors.Is(err, fs.ErrNotExist) {
			_, err = a.client.Lstat(target).Attr()
		}
		return struct{}{}, err
	})
	return errno
}

// Readlink implements fs.NodeReadlinker.
func (n *node) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	at := n.remotePath()
	link, errno := do(ctx, n.vol.remote, func(a attempt) (string, error) { return a.client.Readlink(at).Name() })
	return []byte(link), errno
}

// Access implements fs.NodeAccesser: the pod says so when it comes to it.
func (n *node) Access(context.Context, uint32) syscall.Errno { return 0 }

// Statfs implements fs.NodeStatfser.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	at := n.remotePath()
	st, errno := do(ctx, n.vol.remote, func(a attempt) (*sftp.Space, error) { return a.client.Statvfs(at) })
	if errno != 0 {
		return errno
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(st.Namemax),
	}
	return 0
}

// CopyFileRange implements fs.NodeCopyFileRanger: the kernel then copies by reading and writing.
func (n *node) CopyFileRange(context.Context, fusefs.FileHandle, uint64, *fusefs.Inode, fusefs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}
