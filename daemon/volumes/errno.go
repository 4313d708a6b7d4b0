package volumes

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// lastErrno is beyond the errnos of Linux's file systems (errno(3)).
const lastErrno = 134

// errnos are the names and texts of errnos: SFTP version 3 has a code for three of them only, and the agent's server sends
// "ENOSPC: no space left on device", others' the text.
var errnos = func() map[string]syscall.Errno {
	texts := map[string]syscall.Errno{}
	for e := syscall.Errno(1); e < lastErrno; e++ {
		texts[e.Error()] = e
		if name := errnoName(e); name != "" {
			texts[name] = e
		}
	}
	return texts
}()

// errnoOf is what a system call returns for an error of an SFTP operation.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	var status *sftp.StatusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &status):
		return errnoOfStatus(status)
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	}
	return syscall.EIO
}

func errnoOfStatus(status *sftp.StatusError) syscall.Errno {
	first, _, _ := strings.Cut(status.Text, ":")
	last := strings.TrimSpace(status.Text[strings.LastIndexByte(status.Text, ':')+1:])
	for _, text := range []string{first, last} {
		if e, known := errnos[text]; known {
			return e
		}
	}
	switch status.Code {
	case sftpwire.StatusNoSuchFile:
		return syscall.ENOENT
	case sftpwire.StatusDenied:
		return syscall.EACCES
	case sftpwire.StatusUnsupported:
		return syscall.ENOTSUP
	}
	return syscall.EIO
}

// isLost tells that the way to the pod broke, and nobody knows what became of the operation.
func isLost(err error) bool { return errors.Is(err, sftp.ErrLost) }
