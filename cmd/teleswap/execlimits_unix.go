//go:build unix

package main

import "golang.org/x/sys/unix"

// stackLimit is RLIMIT_STACK, which the process inherits.
func stackLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_STACK, &limit); err != nil {
		return 0 // the least is always allowed
	}
	return uint64(limit.Cur)
}
