package sftp

import (
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// Attr is what stat(2) tells of a file. Mode is st_mode; 0 where the server does not know.
type Attr struct {
	Mode, Links, Device         uint32
	Size                        int64
	Blocks                      uint64 // of 512 bytes
	Accessed, Modified, Changed time.Time
}

// attr takes the attributes off. What the protocol has no field for is guessed where the server does not add it.
func attr(d *sftpwire.Decoder) *Attr {
	told := d.Attrs()
	a := &Attr{Mode: told.Mode, Links: 1, Size: int64(told.Size), Blocks: uint64(int64(told.Size)+511) / 512}
	if told.Flags&sftpwire.AttrTimes != 0 {
		a.Accessed, a.Modified = time.Unix(int64(told.Accessed), 0), time.Unix(int64(told.Modified), 0)
		a.Changed = a.Modified
	}
	if st := told.Stat; st.Known { // without the inode's number: ours are go-fuse's
		a.Links, a.Blocks, a.Device = st.Links, st.Blocks, uint32(st.Device)
		a.Accessed, a.Modified, a.Changed = time.Unix(0, st.Accessed), time.Unix(0, st.Modified), time.Unix(0, st.Changed)
	}
	return a
}

// Change is what SETSTAT changes; nil leaves as it is. The protocol sets both times or none, in whole seconds.
type Change struct {
	Size               *int64
	Mode               *uint32
	Accessed, Modified *time.Time
}

// append writes the change, and asks for unasked attributes where wanted.
func (ch Change) append(b []byte, stat bool) []byte {
	a := sftpwire.Attrs{OpenStat: stat}
	if ch.Size != nil {
		a.Flags |= sftpwire.AttrSize
		a.Size = uint64(*ch.Size)
	}
	if ch.Mode != nil {
		a.Flags |= sftpwire.AttrMode
		a.Mode = *ch.Mode
	}
	if ch.Accessed != nil && ch.Modified != nil {
		a.Flags |= sftpwire.AttrTimes
		a.Accessed, a.Modified = uint32(ch.Accessed.Unix()), uint32(ch.Modified.Unix())
	}
	return a.Append(b)
}

// openFlags are the protocol's for open(2)'s.
func openFlags(flags int) uint32 {
	var p uint32
	switch flags & (syscall.O_RDONLY | syscall.O_WRONLY | syscall.O_RDWR) {
	case syscall.O_WRONLY:
		p = sftpwire.OpenWrite
	case syscall.O_RDWR:
		p = sftpwire.OpenRead | sftpwire.OpenWrite
	default:
		p = sftpwire.OpenRead
	}
	for _, f := range [...]struct {
		os   int
		wire uint32
	}{
		{syscall.O_APPEND, sftpwire.OpenAppend},
		{syscall.O_CREAT, sftpwire.OpenCreate},
		{syscall.O_TRUNC, sftpwire.OpenTrunc},
		{syscall.O_EXCL, sftpwire.OpenExcl},
	} {
		if flags&f.os != 0 {
			p |= f.wire
		}
	}
	return p
}
