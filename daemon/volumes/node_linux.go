package volumes

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/pkg/sftp"
)

const (
	// fresh is how long what was learnt of a file holds: a change of the other side is seen a second later at most.
	fresh = time.Second
	// blockSize is what programs are told to write in, which costs a round trip each: the C library's stdio takes the word
	// for it.
	blockSize = 128 << 10
	// madeFile and madeDir are the modes that the agent's server gives what it makes.
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

	mu      sync.Mutex
	listing map[string]os.FileInfo // of a directory, for the look-ups that follow a listing
	listed  time.Time
	open    map[*handle]struct{}
}

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
func (v *live) attributes(st os.FileInfo, out *fuse.Attr) {
	out.Mode = modeBits(st)
	out.Size = uint64(st.Size())
	out.Blocks = (out.Size + 511) / 512
	out.Blksize = blockSize
	out.Nlink = 1
	out.Owner = fuse.Owner{Uid: v.uid, Gid: v.gid}
	access, modified, changed := st.ModTime(), st.ModTime(), st.ModTime()
	if sys, ok := st.Sys().(*sftp.FileStat); ok {
		access = time.Unix(int64(sys.Atime), 0)
		if more, ok := moreOf(sys); ok {
			out.Nlink, out.Blocks, out.Rdev = more.links, more.blocks, more.device
			access, modified, changed = more.access, more.modified, more.changed
		}
	}
	out.SetTimes(&access, &modified, &changed)
}

// statExtension is the attribute in which the agent sends what SFTP has no field for; see agent/sftpd, whose format this is.
const statExtension = "stat@teleswap.dev"

// more is what other servers do not tell.
type more struct {
	links, device             uint32
	blocks                    uint64
	access, modified, changed time.Time
}

func moreOf(st *sftp.FileStat) (more, bool) {
	for _, e := range st.Extended {
		d := []byte(e.ExtData)
		if e.ExtType != statExtension || len(d) < 52 {
			continue
		}
		be := binary.BigEndian
		at := func(i int) time.Time { return time.Unix(0, int64(be.Uint64(d[i:]))) }
		return more{
			links: be.Uint32(d[8:]), blocks: be.Uint64(d[12:]), device: uint32(be.Uint64(d[20:])),
			access: at(28), modified: at(36), changed: at(44),
		}, true
	}
	return more{}, false
}

// modeBits is st_mode.
func modeBits(st os.FileInfo) uint32 {
	if sys, ok := st.Sys().(*sftp.FileStat); ok {
		return sys.Mode
	}
	return uint32(st.Mode().Perm()) | syscall.S_IFREG
}

// inode is the child called name, which st describes: the one that is known, if it is of the same kind still.
func (n *node) inode(ctx context.Context, name string, st os.FileInfo, out *fuse.EntryOut) *fusefs.Inode {
	n.vol.attributes(st, &out.Attr)
	kind := out.Mode & syscall.S_IFMT
	if known := n.GetChild(name); known != nil && known.Mode() == kind {
		return known
	}
	return n.NewInode(ctx, &node{vol: n.vol}, fusefs.StableAttr{Mode: kind})
}

// remember keeps a listing for the look-ups that follow; nil forgets it.
func (n *node) remember(entries []os.FileInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listing = nil
	if entries == nil {
		return
	}
	n.listing, n.listed = make(map[string]os.FileInfo, len(entries)), time.Now()
	for _, e := range entries {
		if modeBits(e)&syscall.S_IFMT != 0 { // else the agent may list the directory and not enter it
			n.listing[e.Name()] = e
		}
	}
}

// recall is what a fresh listing says of a name. It says it once: what is asked for again is asked of the pod.
func (n *node) recall(name string) os.FileInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.listed) > fresh {
		n.listing = nil
	}
	st := n.listing[name]
	delete(n.listing, name)
	return st
}

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if own := n.special(name); own != nil {
		own.attributes(&out.Attr)
		return own.EmbeddedInode(), 0
	}
	if st := n.recall(name); st != nil {
		return n.inode(ctx, name, st, out), 0
	}
	at := n.child(name)
	st, errno := do(ctx, n.vol.remote, func(a attempt) (os.FileInfo, error) { return a.client.Lstat(at) })
	if errno != 0 {
		return nil, errno
	}
	return n.inode(ctx, name, st, out), 0
}

// Getattr implements fs.NodeGetattrer. A file that was removed while it is open still has attributes.
func (n *node) Getattr(ctx context.Context, f fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	h, _ := f.(*handle)
	at := n.remotePath()
	st, errno := do(ctx, n.vol.remote, func(a attempt) (os.FileInfo, error) {
		if h != nil {
			return h.stat(a)
		}
		st, err := a.client.Lstat(at)
		if h := n.anyOpen(); h != nil && errors.Is(err, fs.ErrNotExist) {
			return h.stat(a)
		}
		return st, err
	})
	if errno == 0 {
		n.vol.attributes(st, &out.Attr)
	}
	return errno
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
	h, _ := f.(*handle)
	at := n.remotePath()
	_, errno := do(ctx, n.vol.remote, func(a attempt) (struct{}, error) { return struct{}{}, setattr(a, at, h, in) })
	if errno != 0 {
		return errno
	}
	out.Ino = n.StableAttr().Ino // which go-fuse sets in all other answers
	return n.Getattr(ctx, f, out)
}

func setattr(a attempt, at string, h *handle, in *fuse.SetAttrIn) error {
	if size, ok := in.GetSize(); ok {
		if err := truncate(a, at, h, int64(size)); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := a.client.Chmod(at, modeOf(mode)); err != nil {
			return err
		}
	}
	access, setAccess := in.GetATime()
	modified, setModified := in.GetMTime()
	if !setAccess && !setModified {
		return nil
	}
	if !setAccess || !setModified { // SFTP sets both or none
		st, err := a.client.Stat(at)
		if err != nil {
			return err
		}
		if !setModified {
			modified = st.ModTime()
		}
		if sys, ok := st.Sys().(*sftp.FileStat); ok && !setAccess {
			access = time.Unix(int64(sys.Atime), 0)
		}
	}
	return a.client.Chtimes(at, access, modified)
}

func truncate(a attempt, at string, h *handle, size int64) error {
	if h == nil {
		return a.client.Truncate(at, size)
	}
	file, err := h.on(a)
	if err != nil {
		return err
	}
	return file.Truncate(size)
}

// Readdir implements fs.NodeReaddirer.
func (n *node) Readdir(ctx context.Context) (fusefs.DirStream, syscall.Errno) {
	at := n.remotePath()
	entries, errno := do(ctx, n.vol.remote, func(a attempt) ([]os.FileInfo, error) { return a.client.ReadDir(at) })
	if errno != 0 {
		return nil, errno
	}
	n.remember(entries)
	list := make([]fuse.DirEntry, 0, len(entries))
	for _, e := range entries {
		list = append(list, fuse.DirEntry{Name: e.Name(), Mode: modeBits(e) & syscall.S_IFMT})
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
	return n.add(ctx, name, out, func(a attempt, at string) error {
		if err := a.made(a.client.Mkdir(at)); err != nil {
			return err
		}
		if mode&0o7777 == madeDir {
			return nil
		}
		return a.client.Chmod(at, modeOf(mode))
	})
}

// Symlink implements fs.NodeSymlinker.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	return n.add(ctx, name, out, func(a attempt, at string) error {
		return a.made(a.client.Symlink(target, at))
	})
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fusefs.InodeEmbedder, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	from, ok := target.(*node)
	if !ok {
		return nil, syscall.EXDEV
	}
	old := from.remotePath()
	_, errno := n.add(ctx, name, out, func(a attempt, at string) error {
		return a.made(a.client.Link(old, at))
	})
	return from.EmbeddedInode(), errno
}

// add makes a child and looks at what was made.
func (n *node) add(ctx context.Context, name string, out *fuse.EntryOut, makeIt func(attempt, string) error) (*fusefs.Inode, syscall.Errno) {
	at := n.child(name)
	n.remember(nil)
	st, errno := do(ctx, n.vol.remote, func(a attempt) (os.FileInfo, error) {
		if err := makeIt(a, at); err != nil {
			return nil, err
		}
		return a.client.Lstat(at)
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
	return n.remove(ctx, name, func(a attempt, at string) error { return a.client.Remove(at) })
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.remove(ctx, name, func(a attempt, at string) error { return a.client.RemoveDirectory(at) })
}

func (n *node) remove(ctx context.Context, name string, removeIt func(attempt, string) error) syscall.Errno {
	at := n.child(name)
	n.remember(nil)
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
	n.remember(nil)
	to.remember(nil)
	_, errno := do(ctx, n.vol.remote, func(a attempt) (struct{}, error) {
		if flags&renameNoReplace != 0 && !a.again {
			if _, err := a.client.Lstat(target); err == nil {
				return struct{}{}, syscall.EEXIST
			}
		}
		err := a.client.PosixRename(from, target)
		if a.again && errors.Is(err, fs.ErrNotExist) {
			_, err = a.client.Lstat(target)
		}
		return struct{}{}, err
	})
	return errno
}

// Readlink implements fs.NodeReadlinker.
func (n *node) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	at := n.remotePath()
	link, errno := do(ctx, n.vol.remote, func(a attempt) (string, error) { return a.client.ReadLink(at) })
	return []byte(link), errno
}

// Access implements fs.NodeAccesser: the pod says so when it comes to it.
func (n *node) Access(context.Context, uint32) syscall.Errno { return 0 }

// Statfs implements fs.NodeStatfser.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	at := n.remotePath()
	st, errno := do(ctx, n.vol.remote, func(a attempt) (*sftp.StatVFS, error) { return a.client.StatVFS(at) })
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
