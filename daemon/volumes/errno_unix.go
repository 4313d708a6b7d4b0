//go:build unix

package volumes

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// errnoName is ENOENT and so on; empty: there is no such errno.
func errnoName(e syscall.Errno) string { return unix.ErrnoName(e) }
