//go:build linux

package build

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestPrune(t *testing.T) {
	b := builder(t)
	// The kernel names programs by what a link leads to.
	if err := errors.Join(os.Mkdir(b.Cache, 0o755), os.Symlink(b.Cache, b.Cache+".link")); err != nil {
		t.Fatal(err)
	}
	b.Cache += ".link"
	now := time.Now()
	own, err := b.Key()
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	lay := func(name string, age time.Duration) string {
		dir := filepath.Join(b.Cache, name)
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	lay(own, 90*day)
	lay("aaaaaaaaaaaaaaaa", 15*day)
	lay("bbbbbbbbbbbbbbbb", 13*day)
	lay("cccccccccccccccc", 15*day)
	lay("dddddddddddddddd.tmp", 0)
	lay("eeeeeeeeeeeeeeee.old", 0)
	lay("cccccccccccccccc.tmp", 0)
	lay("somebody's", 90*day)
	runs := lay("ffffffffffffffff", 90*day)
	unlock, err := b.lock(t.Context(), filepath.Join(b.Cache, "cccccccccccccccc.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	sleeps := startBelow(t, filepath.Join(runs, "bin"))
	if err := os.Chtimes(runs, now.Add(-90*day), now.Add(-90*day)); err != nil {
		t.Fatal(err)
	}

	b.prune(own, now)
	want := []string{"bbbbbbbbbbbbbbbb", "cccccccccccccccc", "cccccccccccccccc.tmp", "ffffffffffffffff", "somebody's", own}
	slices.Sort(want)
	if got := folders(t, b.Cache); !slices.Equal(got, want) {
		t.Errorf("with one in use and one being built %q are left, want %q", got, want)
	}

	unlock()
	sleeps()
	b.prune(own, now)
	want = []string{"bbbbbbbbbbbbbbbb", "somebody's", own}
	slices.Sort(want)
	if got := folders(t, b.Cache); !slices.Equal(got, want) {
		t.Errorf("later %q are left, want %q", got, want)
	}
}

// What is asked for counts as used from then on, and asking for it prunes the others.
func TestEnsurePrunes(t *testing.T) {
	b := builder(t)
	key, err := b.Key()
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-60 * 24 * time.Hour)
	for _, name := range []string{key, "aaaaaaaaaaaaaaaa"} {
		dir := filepath.Join(b.Cache, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := folders(t, b.Cache); !slices.Equal(got, []string{key}) {
		t.Errorf("%q are left, want %q", got, key)
	}
	b.prune("bbbbbbbbbbbbbbbb", time.Now())
	if got := folders(t, b.Cache); !slices.Equal(got, []string{key}) {
		t.Errorf("another one's prune leaves %q, want %q, which was asked for just now", got, key)
	}
}

// startBelow runs a program that lies in a folder; stop ends it.
func startBelow(t *testing.T, dir string) (stop func()) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "sleep")
	if err := os.WriteFile(copied, program, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
