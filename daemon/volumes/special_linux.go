package volumes

import (
	"context"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// special is a socket or FIFO that a process of the sandbox has made in a live volume. It is the kernel's, so it works among the
// sandbox's processes whatever file system it has its name in; the pod has no use for the name, and SFTP no request that
// makes one. It lives in the tree of nodes alone, as long as it is not removed.
type special struct {
	fusefs.Inode
	vol  *live
	born time.Time

	mu   sync.Mutex
	mode uint32 // permissions
}

// Mknod implements fs.NodeMknoder.
func (n *node) Mknod(ctx context.Context, name string, mode, _ uint32, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	kind := mode & syscall.S_IFMT
	switch kind {
	case syscall.S_IFSOCK, syscall.S_IFIFO:
	case syscall.S_IFREG:
		child, f, _, errno := n.Create(ctx, name, syscall.O_WRONLY|syscall.O_EXCL, mode, out)
		if h, ok := f.(*handle); ok {
			_ = h.Release(ctx)
		}
		return child, errno
	default:
		return nil, syscall.EPERM
	}
	if _, errno := n.Lookup(ctx, name, out); errno != syscall.ENOENT {
		if errno == 0 {
			errno = syscall.EEXIST
		}
		return nil, errno
	}
	own := &special{vol: n.vol, born: time.Now(), mode: mode &^ syscall.S_IFMT}
	inode := n.NewPersistentInode(ctx, own, fusefs.StableAttr{Mode: kind})
	own.attributes(&out.Attr)
	return inode, 0
}

// special is the child of that name, if it is one.
func (n *node) special(name string) *special {
	child := n.GetChild(name)
	if child == nil {
		return nil
	}
	own, _ := child.Operations().(*special)
	return own
}

// takeSpecial makes room for a special that is renamed to name, and replaces what is there.
func (n *node) takeSpecial(ctx context.Context, name string, flags uint32) syscall.Errno {
	var out fuse.EntryOut
	child, errno := n.Lookup(ctx, name, &out)
	switch {
	case errno == syscall.ENOENT:
		return 0
	case errno != 0:
		return errno
	case flags&renameNoReplace != 0:
		return syscall.EEXIST
	case child.IsDir():
		return syscall.EISDIR
	}
	return n.Unlink(ctx, name)
}

func (s *special) attributes(out *fuse.Attr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Mode = s.StableAttr().Mode | s.mode
	out.Nlink = 1
	out.Blksize = blockSize
	out.Owner = fuse.Owner{Uid: s.vol.uid, Gid: s.vol.gid}
	out.SetTimes(&s.born, &s.born, &s.born)
}

// Getattr implements fs.NodeGetattrer.
func (s *special) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	s.attributes(&out.Attr)
	return 0
}

// Setattr implements fs.NodeSetattrer: the permissions can be changed.
func (s *special) Setattr(ctx context.Context, f fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if uid, ok := in.GetUID(); ok && uid != s.vol.uid {
		return syscall.EPERM
	}
	if gid, ok := in.GetGID(); ok && gid != s.vol.gid {
		return syscall.EPERM
	}
	if mode, ok := in.GetMode(); ok {
		s.mu.Lock()
		s.mode = mode &^ syscall.S_IFMT
		s.mu.Unlock()
	}
	out.Ino = s.StableAttr().Ino // the kernel finds a socket by it
	return s.Getattr(ctx, f, out)
}

// Access implements fs.NodeAccesser.
func (s *special) Access(context.Context, uint32) syscall.Errno { return 0 }
