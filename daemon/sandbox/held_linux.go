package sandbox

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// heldFiles are the first process's ends of the command's pipes and terminals, see Start.
func heldFiles(n int) []*os.File {
	files := make([]*os.File, n)
	for i := range files {
		fd := ControlFD + 1 + i
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "held")
	}
	return files
}

// drainHeld reads what the command still writes, now that the CLI does not any more. The readers end with the process.
func (s *supervisor) drainHeld() {
	for _, f := range s.held {
		go func() { _, _ = io.Copy(io.Discard, f) }()
	}
}

// letGoHeld leaves reading to the CLI alone: when that closes its ends the command finds out.
func (s *supervisor) letGoHeld() {
	for _, f := range s.held {
		_ = f.Close()
	}
	s.held = nil
}
