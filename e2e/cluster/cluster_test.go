//go:build linux

package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test's executable plays the driver's, which is also what runs in the node.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "__") {
		os.Exit(Internal(context.Background(), os.Args[1:], os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// scratch is a clone of its own that shares this one's programs, so that a test
// can make and break a cluster beside the one that is in use.
func scratch(t *testing.T) Names {
	t.Helper()
	if testing.Short() {
		t.Skip("makes whole clusters: not with -short")
	}
	if err := Preflight(); err != nil {
		t.Skip(err)
	}
	clone, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	parts, err := filepath.Abs("parts")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(clone, "e2e", "cluster"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(parts, filepath.Join(clone, "e2e", "cluster", "parts")); err != nil {
		t.Fatal(err)
	}
	n := namesFor(clone)
	b, err := n.builder(discard())
	if err != nil {
		t.Fatal(err)
	}
	if built, err := b.Built(); err != nil {
		t.Fatal(err)
	} else if !built {
		t.Skip("the cluster's programs are not built, which takes longer than a test may: make cluster-up builds them")
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own has ended
		defer cancel()
		if err := Down(ctx, n, discard()); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return n
}

// clean fails the test if anything of the cluster is on the machine.
func clean(t *testing.T, n Names, when string) {
	t.Helper()
	if there, err := n.traces(); err != nil || there {
		t.Errorf("%s: traces left (%v)", when, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), n.ID) {
		t.Errorf("%s: a mount is left", when)
	}
	if names, err := filepath.Glob("/run/netns/*" + n.ID + "*"); err != nil || len(names) > 0 {
		t.Errorf("%s: names of network namespaces are left: %v (%v)", when, names, err)
	}
	group, err := n.group()
	if err != nil {
		t.Fatal(err)
	}
	if pids := group.Members(); len(pids) > 0 {
		t.Errorf("%s: processes %v are left", when, pids)
	}
}

func TestUpDown(t *testing.T) {
	n := scratch(t)
	if err := Up(t.Context(), n, discard()); err != nil {
		t.Fatal(err)
	}
	if s, err := Look(t.Context(), n); err != nil || s.State != "up" {
		t.Fatalf("status: got %+v, %v", s, err)
	}
	first, err := loadRecord(n.record())
	if err != nil {
		t.Fatal(err)
	}
	if err := Up(t.Context(), n, discard()); err != nil {
		t.Fatalf("up again: %v", err)
	}
	if again, err := loadRecord(n.record()); err != nil || again.Node != first.Node {
		t.Errorf("up again: got node %+v (%v), want %+v as before", again.Node, err, first.Node)
	}

	if err := first.Node.Kill(killPatience); err != nil {
		t.Fatal(err)
	}
	if s, err := Look(t.Context(), n); err != nil || s.State != "broken" {
		t.Errorf("after the node's end: got %+v, %v", s, err)
	}
	if err := Up(t.Context(), n, discard()); err != nil {
		t.Fatalf("up after the node's end: %v", err)
	}
	for range 2 {
		if err := Down(t.Context(), n, discard()); err != nil {
			t.Fatalf("down: %v", err)
		}
		clean(t, n, "after down")
	}
}

// A start that is cut off between any two of its steps, or in the middle of
// one, is cleaned by the next run.
func TestCutOff(t *testing.T) {
	n := scratch(t)
	built, key, err := n.build(t.Context(), discard())
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() *start {
		return newStart(n, discard(), built, key)
	}
	for last := range fresh().steps() {
		steps := fresh()
		for i, step := range steps.steps()[:last+1] {
			if err := step.do(t.Context()); err != nil {
				t.Fatalf("step %d, %s: %v", i, step.name, err)
			}
		}
		when := "cut off after " + steps.steps()[last].name
		if err := Down(t.Context(), n, discard()); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		clean(t, n, when)
	}
}

// The node keeps nothing open of who started it: a pipe to a shell's tee would
// hang there as long as the cluster lives.
func TestNodeDropsInheritedFiles(t *testing.T) {
	n := scratch(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = read.Close() }()
	flags, err := unix.FcntlInt(write.Fd(), unix.F_SETFD, 0) // inherited, as a shell leaves it
	if err != nil {
		t.Fatalf("%d, %v", flags, err)
	}
	if err := Up(t.Context(), n, discard()); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	if err := read.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if k, err := read.Read(make([]byte, 1)); k != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the pipe after the start: got %d, %v, want its end", k, err)
	}
}
