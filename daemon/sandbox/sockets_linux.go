package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Sockets are those that a process without a sandbox and its relatives have open, by their inodes: all that the first
// process of its Plain spec has below it, so also what has left its process group. blind says that the descriptors of one of
// them cannot be seen: it runs as another user.
func Sockets(pid int) (inodes map[uint64]struct{}, blind bool, err error) {
	command, err := readProcess(pid)
	if err != nil {
		return nil, false, fmt.Errorf("find the process: %w", err)
	}
	inodes = map[uint64]struct{}{}
	for _, p := range descendants(command.parent) {
		own, err := socketsOf(p.pid)
		if errors.Is(err, fs.ErrPermission) {
			blind = true
		}
		for _, inode := range own {
			inodes[inode] = struct{}{}
		}
	}
	return inodes, blind, nil
}

// SocketHolder says which process has a socket open, for messages: its name and number. ok is false where it cannot be seen, as
// other users' cannot.
func SocketHolder(inode uint64) (name string, pid int, ok bool) {
	for _, p := range processes() {
		own, _ := socketsOf(p.pid)
		for _, i := range own {
			if i != inode {
				continue
			}
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
			return strings.TrimSpace(string(comm)), p.pid, true
		}
	}
	return "", 0, false
}

// socketsOf reads the sockets among a process's descriptors (proc_pid_fd(5)).
func socketsOf(pid int) ([]uint64, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	var inodes []uint64
	for _, fd := range fds {
		link, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue
		}
		number, found := strings.CutPrefix(link, "socket:[")
		if !found {
			continue
		}
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); err == nil {
			inodes = append(inodes, inode)
		}
	}
	return inodes, err
}
