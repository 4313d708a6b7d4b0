package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
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
	typeRealpath      = 16
	typeStat          = 17
	typeRename        = 18
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
	statusOK          = 0
	statusEOF         = 1
	statusNoSuchFile  = 2
	statusDenied      = 3
	statusFailure     = 4
	statusBadMessage  = 5
	statusUnsupported = 8
)

// Flags of OPEN (section 6.3).
const (
	openRead   = 1
	openWrite  = 2
	openAppend = 4
	openCreate = 8
	openTrunc  = 16
	openExcl   = 32
)

// Flags of ATTRS (section 5).
const (
	attrSize     = 1
	attrOwner    = 2
	attrMode     = 4
	attrTimes    = 8
	attrExtended = 1 << 31
)

// Extensions (OpenSSH's PROTOCOL, section 4).
const (
	extPosixRename = "posix-rename@openssh.com"
	extStatvfs     = "statvfs@openssh.com"
	extFstatvfs    = "fstatvfs@openssh.com"
	extHardlink    = "hardlink@openssh.com"
	extFsync       = "fsync@openssh.com"
	extLsetstat    = "lsetstat@openssh.com"
	extLimits      = "limits@openssh.com"
)

// Extensions of our own; see the package's comment.
const (
	extOrderedWrites = "ordered-writes@teleswap.dev"
	extOpenStat      = "open-stat@teleswap.dev"
)

// StatExtension is the extended attribute that goes with every ATTRS, for what version 3 has no
// field for. Its data is big endian: inode (8), links (4), 512-byte blocks (8), device
// number (8), then nanoseconds since 1970 of access, change of content, change of status (8 each).
const StatExtension = "stat@teleswap.dev"

const (
	// maxPacket bounds a request, as OpenSSH's server does.
	maxPacket = 256 << 10
	// maxRead bounds one READ's answer; a longer request is answered in part.
	maxRead = maxPacket - 1024
	// maxNames bounds one READDIR's answer, in bytes.
	maxNames = 192 << 10
)

var errMalformed = errors.New("malformed packet")

// reader takes fields off a packet; the first error stays.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) next(n int) []byte {
	if r.err != nil || n < 0 || len(r.rest) < n {
		r.err = errMalformed
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.next(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.next(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes reads a string of the protocol, which is bytes.
func (r *reader) bytes() []byte  { return r.next(int(r.uint32())) }
func (r *reader) string() string { return string(r.bytes()) }

// attrs are what a client sets.
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32
	stat         bool // of OPEN: the answer is to have the file's attributes
}

func (r *reader) attrs() attrs {
	a := attrs{flags: r.uint32()}
	if a.flags&attrSize != 0 {
		a.size = r.uint64()
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = r.uint32(), r.uint32()
	}
	if a.flags&attrMode != 0 {
		a.mode = r.uint32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = r.uint32(), r.uint32()
	}
	if a.flags&attrExtended != 0 {
		for n := r.uint32(); n > 0 && r.err == nil; n-- {
			a.stat = r.string() == extOpenStat || a.stat
			r.bytes()
		}
	}
	return a
}

// appendString writes a string of the protocol.
func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// appendAttrs writes what stat(2) gave.
func appendAttrs(b []byte, st *unix.Stat_t) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, attrSize|attrOwner|attrMode|attrTimes|attrExtended)
	b = be.AppendUint64(b, uint64(st.Size))
	b = be.AppendUint32(be.AppendUint32(b, st.Uid), st.Gid)
	b = be.AppendUint32(b, st.Mode)
	b = be.AppendUint32(be.AppendUint32(b, uint32(st.Atim.Sec)), uint32(st.Mtim.Sec))
	b = be.AppendUint32(b, 1)
	b = appendString(b, StatExtension)
	b = be.AppendUint32(b, 8+4+8+8+3*8)
	b = be.AppendUint64(b, st.Ino)
	b = be.AppendUint32(b, uint32(st.Nlink))
	b = be.AppendUint64(b, uint64(st.Blocks))
	b = be.AppendUint64(b, uint64(st.Rdev))
	for _, t := range []unix.Timespec{st.Atim, st.Mtim, st.Ctim} {
		b = be.AppendUint64(b, uint64(t.Nano()))
	}
	return b
}

// answer begins a packet; finish sets its length.
func answer(kind byte, id uint32) []byte {
	b := make([]byte, 4, 64)
	return binary.BigEndian.AppendUint32(append(b, kind), id)
}

func finish(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// statusAnswer is how every request without a result ends. What version 3 has no code for is told
// by the errno's name in front of the text: "ENOSPC: no space left on device".
func statusAnswer(id uint32, err error) []byte {
	code, text := uint32(statusOK), "Success"
	var errno syscall.Errno
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		code, text = statusEOF, "End of file"
	case errors.Is(err, errMalformed):
		code, text = statusBadMessage, err.Error()
	case errors.Is(err, errors.ErrUnsupported) && !errors.As(err, &errno):
		code, text = statusUnsupported, err.Error()
	case errors.As(err, &errno):
		code, text = errnoStatus(errno), unix.ErrnoName(errno)+": "+errno.Error()
	case errors.Is(err, os.ErrClosed):
		code, text = statusFailure, "EBADF: "+syscall.EBADF.Error()
	default:
		code, text = statusFailure, err.Error()
	}
	b := binary.BigEndian.AppendUint32(answer(typeStatus, id), code)
	return appendString(appendString(b, text), "en")
}

func errnoStatus(errno syscall.Errno) uint32 {
	switch errno {
	case syscall.ENOENT:
		return statusNoSuchFile
	case syscall.EACCES, syscall.EPERM:
		return statusDenied
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		return statusUnsupported
	}
	return statusFailure
}
