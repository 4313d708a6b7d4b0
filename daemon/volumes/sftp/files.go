package sftp

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// onPath sends a request that begins with a path, or two.
func (c *Client) onPath(kind byte, more func([]byte) []byte, paths ...string) *Call {
	return c.send(kind, nil, func(b []byte) []byte {
		for _, p := range paths {
			b = sftpwire.AppendString(b, p)
		}
		if more != nil {
			b = more(b)
		}
		return b
	})
}

func (c *Client) extended(name string, paths ...string) *Call {
	return c.onPath(sftpwire.TypeExtended, nil, append([]string{name}, paths...)...)
}

// Lstat asks for a file's attributes: Attr.
func (c *Client) Lstat(path string) *Call { return c.onPath(sftpwire.TypeLstat, nil, path) }

// Stat is Lstat with links followed.
func (c *Client) Stat(path string) *Call { return c.onPath(sftpwire.TypeStat, nil, path) }

// Readlink asks where a link leads: Name.
func (c *Client) Readlink(path string) *Call { return c.onPath(sftpwire.TypeReadlink, nil, path) }

// Setstat changes attributes: Err.
func (c *Client) Setstat(path string, ch Change) *Call {
	return c.onPath(sftpwire.TypeSetstat, func(b []byte) []byte { return ch.append(b, false) }, path)
}

// Lsetstat is Setstat for a link itself. The server must have sftpwire.ExtLsetstat.
func (c *Client) Lsetstat(path string, ch Change) *Call {
	return c.onPath(sftpwire.TypeExtended, func(b []byte) []byte { return ch.append(b, false) }, sftpwire.ExtLsetstat, path)
}

// Mkdir makes a directory: Err. Some servers take no notice of the mode.
func (c *Client) Mkdir(path string, mode uint32) *Call {
	return c.onPath(sftpwire.TypeMkdir, func(b []byte) []byte { return Change{Mode: &mode}.append(b, false) }, path)
}

// Remove removes a file: Err.
func (c *Client) Remove(path string) *Call { return c.onPath(sftpwire.TypeRemove, nil, path) }

// Rmdir removes an empty directory: Err.
func (c *Client) Rmdir(path string) *Call { return c.onPath(sftpwire.TypeRmdir, nil, path) }

// Rename renames as rename(2) does, replacing what is there: Err.
func (c *Client) Rename(from, to string) *Call { return c.extended(sftpwire.ExtPosixRename, from, to) }

// Link makes a hard link: Err.
func (c *Client) Link(from, to string) *Call { return c.extended(sftpwire.ExtHardlink, from, to) }

// Symlink makes a symbolic link: Err.
func (c *Client) Symlink(target, path string) *Call {
	// OpenSSH's order, which all servers follow, against the draft.
	return c.onPath(sftpwire.TypeSymlink, nil, target, path)
}

// Space is what statvfs(3) tells of a file system.
type Space struct {
	Bsize, Frsize, Blocks, Bfree, Bavail, Files, Ffree, Namemax uint64
}

// Statvfs asks for the file system of a path.
func (c *Client) Statvfs(path string) (*Space, error) {
	d, err := c.extended(sftpwire.ExtStatvfs, path).answer(sftpwire.TypeExtendedReply)
	if err != nil {
		return nil, err
	}
	s := &Space{}
	var skipped uint64 // favail, fsid, flag
	for _, field := range []*uint64{&s.Bsize, &s.Frsize, &s.Blocks, &s.Bfree, &s.Bavail, &s.Files, &s.Ffree, &skipped, &skipped, &skipped, &s.Namemax} {
		*field = d.Uint64()
	}
	return s, d.Err
}

// Open opens a file by open(2)'s flags: Opened. Some servers take no notice of the mode of what is made.
func (c *Client) Open(path string, flags int, mode uint32) *Call {
	return c.onPath(sftpwire.TypeOpen, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, openFlags(flags))
		return Change{Mode: &mode}.append(b, c.Has(sftpwire.ExtOpenStat))
	}, path)
}

// Entry is a name in a directory. The Mode of its Attr is 0 where the server does not tell it.
type Entry struct {
	Name string
	*Attr
}

// listings is how many READDIRs are under way, so that a long directory does not take a round trip for each of its parts.
const listings = 4

// ReadDir lists a directory, without "." and "..", in no order. At most, unless 0, is after how many entries it asks for no
// more; whole tells whether there were no more.
func (c *Client) ReadDir(path string, atMost int) (all []Entry, whole bool, err error) {
	dir, _, err := c.onPath(sftpwire.TypeOpendir, nil, path).Opened()
	if err != nil {
		return nil, false, err
	}
	next := func() *Call { return dir.request(sftpwire.TypeReaddir, nil, nil) }
	// Most directories have a part only, and after it one answer that says so.
	calls := []*Call{next(), next()}
	var failed error
	for len(calls) > 0 {
		d, err := calls[0].answer(sftpwire.TypeName)
		calls = calls[1:]
		switch {
		case err != nil:
			if errors.Is(err, io.EOF) {
				whole = true
			} else {
				failed = errors.Join(failed, err)
			}
			continue
		case failed != nil:
			continue
		}
		for n := d.Uint32(); n > 0 && d.Err == nil; n-- {
			name := d.Text()
			d.Text() // for people
			if a := attr(d); d.Err == nil && name != "." && name != ".." {
				all = append(all, Entry{name, a})
			}
		}
		failed = d.Err
		for len(calls) < listings && failed == nil && !whole && (atMost == 0 || len(all) < atMost) {
			calls = append(calls, next())
		}
	}
	dir.Close() // its answer is of no use
	return all, whole, failed
}

// File is an open file or directory.
type File struct {
	client *Client
	handle string
}

func (f *File) request(kind byte, into []byte, more func([]byte) []byte) *Call {
	return f.client.send(kind, into, func(b []byte) []byte {
		b = sftpwire.AppendString(b, f.handle)
		if more != nil {
			b = more(b)
		}
		return b
	})
}

// Read reads into p, which is Packet long at most and the client's until the answer: Count, which may be less.
func (f *File) Read(p []byte, off int64) *Call {
	return f.request(sftpwire.TypeRead, p, func(b []byte) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, uint64(off)), uint32(len(p)))
	})
}

// Write writes p, which is Packet long at most: Err. When it returns p is the caller's again.
func (f *File) Write(p []byte, off int64) *Call {
	return f.request(sftpwire.TypeWrite, nil, func(b []byte) []byte {
		return sftpwire.AppendString(binary.BigEndian.AppendUint64(b, uint64(off)), p)
	})
}

// ReadAt reads all of p, by as many READs at a time as it takes. It returns less, without an error, at the file's end only.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	one := f.client.Packet()
	var calls []*Call
	for at := 0; at < len(p); at += one {
		calls = append(calls, f.Read(p[at:min(at+one, len(p))], off+int64(at)))
	}
	for i, call := range calls {
		at := i * one
		want := min(at+one, len(p)) - at
		n, err := call.Count()
		for err == nil && n < want {
			if f.client.Has(sftpwire.ExtLimits) {
				err = io.EOF // who tells limits gives all that there is
				break
			}
			var more int
			more, err = f.Read(p[at+n:at+want], off+int64(at+n)).Count()
			n += more
		}
		if errors.Is(err, io.EOF) {
			for _, left := range calls[i:] { // p is theirs
				<-left.done
			}
			return at + n, nil
		}
		if err != nil {
			return 0, err // p must not be used again
		}
	}
	return len(p), nil
}

// Stat asks for its attributes: Attr.
func (f *File) Stat() *Call { return f.request(sftpwire.TypeFstat, nil, nil) }

// Setstat changes its attributes: Err.
func (f *File) Setstat(ch Change) *Call {
	return f.request(sftpwire.TypeFsetstat, nil, func(b []byte) []byte { return ch.append(b, false) })
}

// Sync takes what was written to the server's disk: Err. The server must have sftpwire.ExtFsync.
func (f *File) Sync() *Call {
	return f.client.send(sftpwire.TypeExtended, nil, func(b []byte) []byte {
		return sftpwire.AppendString(sftpwire.AppendString(b, sftpwire.ExtFsync), f.handle)
	})
}

// Close closes it: Err.
func (f *File) Close() *Call { return f.request(sftpwire.TypeClose, nil, nil) }
