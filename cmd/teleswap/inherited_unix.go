//go:build unix

package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// closeInherited closes what a shell has left open in the command that started the
// daemon (bash's process substitutions, for one): whoever reads at the other end would
// wait for the daemon's end. Go's own files are marked to be closed by exec, so that
// those without the mark were inherited.
func closeInherited(keep int) {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return // an odd system; nothing is lost but this courtesy
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || fd == keep {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	if keep > 0 {
		unix.CloseOnExec(keep)
	}
}
