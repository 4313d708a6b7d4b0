package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

const (
	// maxPacket bounds a request, as OpenSSH's server does.
	maxPacket = 256 << 10
	// maxRead bounds one READ's answer; a longer request is answered in part.
	maxRead = maxPacket - 1024
	// maxNames bounds one READDIR's answer, in bytes.
	maxNames = 192 << 10
)

// appendAttrs writes what stat(2) gave.
func appendAttrs(b []byte, st *unix.Stat_t) []byte {
	a := sftpwire.Attrs{
		Flags: sftpwire.AttrSize | sftpwire.AttrOwner | sftpwire.AttrMode | sftpwire.AttrTimes,
		Size:  uint64(st.Size), UID: st.Uid, GID: st.Gid, Mode: st.Mode,
		Accessed: uint32(st.Atim.Sec), Modified: uint32(st.Mtim.Sec),
		Stat: sftpwire.Stat{
			Known: true, Inode: st.Ino, Links: uint32(st.Nlink), Blocks: uint64(st.Blocks), Device: uint64(st.Rdev),
			Accessed: st.Atim.Nano(), Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano(),
		},
	}
	return a.Append(b)
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
	code, text := uint32(sftpwire.StatusOK), "Success"
	var errno syscall.Errno
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		code, text = sftpwire.StatusEOF, "End of file"
	case errors.Is(err, sftpwire.ErrMalformed):
		code, text = sftpwire.StatusBadMessage, err.Error()
	case errors.Is(err, errors.ErrUnsupported) && !errors.As(err, &errno):
		code, text = sftpwire.StatusUnsupported, err.Error()
	case errors.As(err, &errno):
		code, text = errnoStatus(errno), unix.ErrnoName(errno)+": "+errno.Error()
	case errors.Is(err, os.ErrClosed):
		code, text = sftpwire.StatusFailure, "EBADF: "+syscall.EBADF.Error()
	default:
		code, text = sftpwire.StatusFailure, err.Error()
	}
	b := binary.BigEndian.AppendUint32(answer(sftpwire.TypeStatus, id), code)
	return sftpwire.AppendString(sftpwire.AppendString(b, text), "en")
}

func errnoStatus(errno syscall.Errno) uint32 {
	switch errno {
	case syscall.ENOENT:
		return sftpwire.StatusNoSuchFile
	case syscall.EACCES, syscall.EPERM:
		return sftpwire.StatusDenied
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		return sftpwire.StatusUnsupported
	}
	return sftpwire.StatusFailure
}
