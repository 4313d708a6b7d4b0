package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// code is why a dial failed or a connection was reset, as it travels: errno numbers
// differ between systems, these (SPEC.md section 6) do not.
type code byte

const (
	codeOther code = iota
	codeRefused
	codeHostUnreachable
	codeNetUnreachable
	codeTimedOut
	codeAccess
	codeReset
	codeAddrNotAvail
	codeAborted
	codeNoBuffers
	codeInvalid
	codeNetDown
	codeHostDown
	codePipe
	codeFamily
	codeMessageSize
	codePermission
	codeNotSupported
)

// errnos gives each code's errno; the index is the code.
func errnos() [18]syscall.Errno {
	return [...]syscall.Errno{
		codeOther:           syscall.EIO,
		codeRefused:         syscall.ECONNREFUSED,
		codeHostUnreachable: syscall.EHOSTUNREACH,
		codeNetUnreachable:  syscall.ENETUNREACH,
		codeTimedOut:        syscall.ETIMEDOUT,
		codeAccess:          syscall.EACCES,
		codeReset:           syscall.ECONNRESET,
		codeAddrNotAvail:    syscall.EADDRNOTAVAIL,
		codeAborted:         syscall.ECONNABORTED,
		codeNoBuffers:       syscall.ENOBUFS,
		codeInvalid:         syscall.EINVAL,
		codeNetDown:         syscall.ENETDOWN,
		codeHostDown:        syscall.EHOSTDOWN,
		codePipe:            syscall.EPIPE,
		codeFamily:          syscall.EAFNOSUPPORT,
		codeMessageSize:     syscall.EMSGSIZE,
		codePermission:      syscall.EPERM,
		codeNotSupported:    syscall.EOPNOTSUPP,
	}
}

// errno is this system's number for c; a code of a later version is EIO.
func (c code) errno() syscall.Errno {
	table := errnos()
	if int(c) >= len(table) {
		return syscall.EIO
	}
	return table[c]
}

// codeOf classifies an error of the operating system.
func codeOf(err error) code {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
			return codeNoBuffers
		}
		for c, e := range errnos() {
			if e == errno {
				return code(c)
			}
		}
		return codeOther
	}
	var timeout net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return codeTimedOut
	case errors.Is(err, io.ErrClosedPipe), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrUnexpectedEOF):
		return codeReset
	}
	return codeOther
}
