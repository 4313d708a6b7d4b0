//go:build unix

package api

import (
	"fmt"
	"os"
	"syscall"
)

// checkOwner refuses a directory that is not this user's alone.
func checkOwner(dir string, info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("runtime directory %s: its owner cannot be told", dir)
	}
	if int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("runtime directory %s belongs to uid %d, not to you (uid %d)\n"+
			"name another one in TELESWAP_RUNTIME_DIR", dir, stat.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("runtime directory %s is open to others (mode %04o)\n"+
			"close it: chmod 700 %s", dir, mode, dir)
	}
	return nil
}
