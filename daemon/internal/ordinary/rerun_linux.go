package ordinary

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// NoSandbox is what a test's reason for being skipped begins with where an ordinary user gets no sandbox.
const NoSandbox = "SKIPPED: no sandbox"

// Rerun runs all tests of the calling test's program again as nobody. It skips, and says why, where the caller is not root.
// A test that skips for NoSandbox skips the caller, too.
func Rerun(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: not root, so the other tests run as an ordinary user already")
	}
	if testing.Short() {
		t.Skip("SKIPPED: -short")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	uid, uidErr := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(nobody.Gid, 10, 32)
	dir, dirErr := os.MkdirTemp("", "ordinary-") //nolint:usetesting // its parents must be open to that user
	if err := errors.Join(uidErr, gidErr, dirErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe := filepath.Join(dir, filepath.Base(os.Args[0]))
	b, err := os.ReadFile(os.Args[0])
	if err := errors.Join(err, os.WriteFile(exe, b, 0o755), os.Chmod(exe, 0o755), os.Chown(dir, int(uid), int(gid))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.v=true", "-test.timeout=120s")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), NoSandbox) {
		t.Skipf("SKIPPED: an ordinary user gets no sandbox here:\n%s", out)
	}
}
