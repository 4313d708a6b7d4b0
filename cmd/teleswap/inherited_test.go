//go:build unix

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/teleswap/teleswap/daemon/api"
)

// TestDaemonKeepsNoInheritedFile starts a daemon by a command that has a pipe of its
// caller's open, as in `teleswap swap … 2> >(tee log)`.
func TestDaemonKeepsNoInheritedFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "tsw") //nolint:usetesting // its names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endDaemon(t, dir) })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(r)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Under the name of the test binary there is no teleswap but the daemon.
	cmd := exec.Command(exe, "daemon")
	paths := api.PathsIn(filepath.Join(dir, "rt"))
	cmd.Env = append(os.Environ(), "TELESWAP_RUNTIME_DIR="+paths.Dir, "XDG_STATE_HOME="+dir)
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends while the daemon runs, or this never returns.
	if _, err := io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatalf("the daemon had ended: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}
