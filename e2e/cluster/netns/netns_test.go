//go:build linux

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	ns := Namespace{Name: fmt.Sprintf("tsw-test-%d", os.Getpid()), File: filepath.Join(t.TempDir(), "net", "x")}
	if ns.Traces() || ns.Exists() {
		t.Fatal("there before it was made")
	}
	if err := ns.Delete(); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	if err := ns.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	if !ns.Exists() || !ns.Traces() {
		t.Error("not there after it was made")
	}
	if err := ns.Create(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create again: got %v", err)
	}
	checkInside(t, ns)
	checkMembers(t, ns)
	if err := ns.Delete(); err != nil {
		t.Fatal(err)
	}
	if ns.Traces() || ns.Exists() {
		t.Error("there after it was deleted")
	}
}

// checkInside sees only a loopback, and that it is down.
func checkInside(t *testing.T, ns Namespace) {
	t.Helper()
	var links []net.Interface
	err := ns.Do(func() (err error) {
		links, err = net.Interfaces()
		return err
	})
	if err != nil || len(links) != 1 || links[0].Flags&net.FlagUp != 0 {
		t.Errorf("interfaces inside: got %v, %v, want a loopback that is down", links, err)
	}
	outside, err := net.Interfaces()
	if err != nil || !slices.ContainsFunc(outside, func(i net.Interface) bool { return i.Flags&net.FlagUp != 0 }) {
		t.Errorf("interfaces outside: got %v, %v: this thread has not come back", outside, err)
	}
}

func checkMembers(t *testing.T, ns Namespace) {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	got, err := ns.Members()
	if err != nil || !slices.Equal(got, []int{cmd.Process.Pid}) {
		t.Errorf("members: got %v, %v, want %d", got, err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // says only that it was killed
	if got, err := ns.Members(); err != nil || len(got) != 0 {
		t.Errorf("members after the end: got %v, %v", got, err)
	}
}
