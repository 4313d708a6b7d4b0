package sftp

import (
	"encoding/binary"
	"errors"
	"syscall"
	"time"
)

// Packet types (draft-ietf-secsh-filexfer-02 section 3).
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeRead          = 5
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeStat          = 17
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201
)

// Status codes (section 7).
const (
	StatusOK          = 0
	statusEOF         = 1
	StatusNoSuchFile  = 2
	StatusDenied      = 3
	StatusUnsupported = 8
)

// Extensions: OpenSSH's (its PROTOCOL, section 4), and those of agent/sftpd, whose package comment says what they are.
const (
	ExtLsetstat      = "lsetstat@openssh.com"
	ExtFsync         = "fsync@openssh.com"
	ExtOrderedWrites = "ordered-writes@teleswap.dev"

	extPosixRename = "posix-rename@openssh.com"
	extStatvfs     = "statvfs@openssh.com"
	extHardlink    = "hardlink@openssh.com"
	ExtLimits      = "limits@openssh.com"
	extOpenStat    = "open-stat@teleswap.dev"
	extStat        = "stat@teleswap.dev"
)

const (
	attrSize     = 1
	attrOwner    = 2
	attrMode     = 4
	attrTimes    = 8
	attrExtended = 1 << 31
)

var errMalformed = errors.New("malformed SFTP packet")

// decoder takes fields off a packet; the first error stays.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) next(n int) []byte {
	if d.err != nil || n < 0 || len(d.rest) < n {
		d.err = errMalformed
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.next(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.next(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) string() string { return string(d.next(int(d.uint32()))) }

// Attr is what stat(2) tells of a file. Mode is st_mode; 0 where the server does not know.
type Attr struct {
	Mode, Links, Device         uint32
	Size                        int64
	Blocks                      uint64 // of 512 bytes
	Accessed, Modified, Changed time.Time
}

// attr takes the attributes off. What the protocol has no field for is guessed where the server does not add it.
func (d *decoder) attr() *Attr {
	a := &Attr{Links: 1}
	flags := d.uint32()
	if flags&attrSize != 0 {
		a.Size = int64(d.uint64())
	}
	a.Blocks = uint64(a.Size+511) / 512
	if flags&attrOwner != 0 {
		d.next(8)
	}
	if flags&attrMode != 0 {
		a.Mode = d.uint32()
	}
	if flags&attrTimes != 0 {
		a.Accessed, a.Modified = time.Unix(int64(d.uint32()), 0), time.Unix(int64(d.uint32()), 0)
		a.Changed = a.Modified
	}
	if flags&attrExtended == 0 {
		return a
	}
	for n := d.uint32(); n > 0 && d.err == nil; n-- {
		name, data := d.string(), decoder{rest: d.next(int(d.uint32()))}
		if name != extStat || len(data.rest) < 52 {
			continue
		}
		data.uint64() // the inode's number: ours are go-fuse's
		a.Links, a.Blocks, a.Device = data.uint32(), data.uint64(), uint32(data.uint64())
		for _, t := range []*time.Time{&a.Accessed, &a.Modified, &a.Changed} {
			*t = time.Unix(0, int64(data.uint64()))
		}
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
	be := binary.BigEndian
	at := len(b)
	b = be.AppendUint32(b, 0)
	flags := uint32(0)
	if ch.Size != nil {
		flags |= attrSize
		b = be.AppendUint64(b, uint64(*ch.Size))
	}
	if ch.Mode != nil {
		flags |= attrMode
		b = be.AppendUint32(b, *ch.Mode)
	}
	if ch.Accessed != nil && ch.Modified != nil {
		flags |= attrTimes
		b = be.AppendUint32(be.AppendUint32(b, uint32(ch.Accessed.Unix())), uint32(ch.Modified.Unix()))
	}
	if stat {
		flags |= attrExtended
		b = appendString(appendString(be.AppendUint32(b, 1), extOpenStat), "")
	}
	be.PutUint32(b[at:], flags)
	return b
}

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// openFlags are the protocol's (section 6.3) for open(2)'s.
func openFlags(flags int) uint32 {
	var p uint32
	switch flags & (syscall.O_RDONLY | syscall.O_WRONLY | syscall.O_RDWR) {
	case syscall.O_WRONLY:
		p = 2
	case syscall.O_RDWR:
		p = 3
	default:
		p = 1
	}
	for _, f := range [...]struct {
		os   int
		wire uint32
	}{{syscall.O_APPEND, 4}, {syscall.O_CREAT, 8}, {syscall.O_TRUNC, 16}, {syscall.O_EXCL, 32}} {
		if flags&f.os != 0 {
			p |= f.wire
		}
	}
	return p
}
