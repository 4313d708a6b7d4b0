package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
)

// lastErrno is beyond the errnos of Linux's file systems (errno(3)).
const lastErrno = 134

// errnos are the texts of errnos: SFTP version 3 has a code for three of them only, and the agent's server sends the
// text of the others.
var errnos = func() map[string]syscall.Errno {
	texts := map[string]syscall.Errno{}
	for e := syscall.Errno(1); e < lastErrno; e++ {
		texts[e.Error()] = e
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
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, fs.ErrExist):
		return syscall.EEXIST
	case errors.Is(err, os.ErrClosed):
		return syscall.EBADF
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.As(err, &status):
		return errnoOfStatus(status)
	}
	return syscall.EIO
}

func errnoOfStatus(status *sftp.StatusError) syscall.Errno {
	if status.FxCode() == sftp.ErrSSHFxOpUnsupported {
		return syscall.ENOTSUP
	}
	// The library's text is: sftp: "mkdir /data/x: file exists" (SSH_FX_FAILURE).
	quoted, err := strconv.QuotedPrefix(strings.TrimPrefix(status.Error(), "sftp: "))
	if err != nil {
		return syscall.EIO
	}
	text, err := strconv.Unquote(quoted)
	if err != nil {
		return syscall.EIO
	}
	if e, known := errnos[strings.TrimSpace(text[strings.LastIndexByte(text, ':')+1:])]; known {
		return e
	}
	return syscall.EIO
}

// isLost tells that the way to the pod broke, or that nobody knows what became of the operation: everything that is not
// an answer.
func isLost(err error) bool {
	var status *sftp.StatusError
	var errno syscall.Errno
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrExist):
		return false
	case errors.Is(err, os.ErrClosed):
		return false
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, sftp.ErrSSHFxNoConnection):
		return true
	case errors.As(err, &status):
		code := status.FxCode()
		return code == sftp.ErrSSHFxConnectionLost || code == sftp.ErrSSHFxNoConnection
	case errors.As(err, &errno):
		return false
	}
	return true
}
