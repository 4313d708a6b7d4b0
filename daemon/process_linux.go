package daemon

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// endPatience is what a sandbox's first process grants its child (10 s), and a little.
const endPatience = 12 * time.Second

// process is another's process, which its number alone would not name safely.
type process struct {
	pidfd *os.File // nil: it is gone, or the kernel has no pidfds (before 5.3)
}

func openProcess(pid int) process {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}
	}
	return process{pidfd: os.NewFile(uintptr(fd), "pidfd")}
}

// wait returns when the process has ended, or when its patience must be over.
func (p process) wait() (ended bool) {
	if p.pidfd == nil {
		return true
	}
	end := time.Now().Add(endPatience)
	for left := endPatience; left > 0; left = time.Until(end) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return true
		}
	}
	return false
}

func (p process) close() error {
	if p.pidfd == nil {
		return nil
	}
	return p.pidfd.Close()
}

// inodeOf is the number by which /proc/PID/net knows a socket.
func inodeOf(f *os.File) (uint64, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, fmt.Errorf("stat a socket: %w", serr)
	}
	return st.Ino, nil
}
