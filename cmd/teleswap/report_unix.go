//go:build unix

package main

import (
	"os"
	"os/exec"
)

// passReport gives a starting daemon the pipe by which it reports, and returns the flag that says so.
func passReport(cmd *exec.Cmd, w *os.File) (flag string) {
	cmd.ExtraFiles = []*os.File{w}
	return "--report-fd=3"
}

// reportFile is that pipe in the daemon.
func reportFile(fd int) *os.File { return os.NewFile(uintptr(fd), "report") }
