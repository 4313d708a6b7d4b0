package main

import (
	"os"
	"os/exec"
)

// passReport gives a starting daemon the pipe by which it reports, and returns the flag that says so. Windows hands on the three
// standard files only; the daemon writes nothing to its standard output.
func passReport(cmd *exec.Cmd, w *os.File) (flag string) {
	cmd.Stdout = w
	return "--report-fd=1"
}

// reportFile is that pipe in the daemon.
func reportFile(int) *os.File { return os.Stdout }
