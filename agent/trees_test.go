package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// kubeletVolume writes a volume as kubelet's AtomicWriter does: a new folder, and ..data swapped.
type kubeletVolume struct {
	t   *testing.T
	dir string
	gen int
}

func (v *kubeletVolume) write(files map[string]string) {
	v.t.Helper()
	v.gen++
	fresh := fmt.Sprintf("..2026_%d", v.gen)
	old, _ := os.Readlink(filepath.Join(v.dir, "..data"))
	if err := os.Mkdir(filepath.Join(v.dir, fresh), 0o755); err != nil {
		v.t.Error(err)
		return
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(v.dir, fresh, name), []byte(content), 0o600); err != nil {
			v.t.Error(err)
		}
		_ = os.Symlink("..data/"+name, filepath.Join(v.dir, name)) // there since the first time
	}
	temporary := filepath.Join(v.dir, "..data_tmp")
	if err := errors.Join(os.Symlink(fresh, temporary), os.Rename(temporary, filepath.Join(v.dir, "..data"))); err != nil {
		v.t.Error(err)
	}
	if old != "" {
		if err := os.RemoveAll(filepath.Join(v.dir, old)); err != nil {
			v.t.Error(err)
		}
	}
}

// watchTrees starts a watch that ends with the test.
func watchTrees(t *testing.T, w *trees, roots ...string) *syncTrees {
	t.Helper()
	s := &syncTrees{came: make(chan struct{}, 1<<16)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.watch(ctx, roots, s.give) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended by %v", err)
		}
	})
	return s
}

// contents are a tree's files, by path.
func contents(t *tunnel.Tree) map[string]string {
	m := make(map[string]string)
	for _, e := range t.Entries {
		switch e.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			m[e.Path] = string(e.Content)
		case unix.S_IFLNK:
			m[e.Path] = "-> " + e.Link
		case unix.S_IFDIR:
			m[e.Path] = "/"
		}
	}
	return m
}

func wantTree(t *testing.T, tree *tunnel.Tree, want map[string]string) {
	t.Helper()
	if got := contents(tree); tree.Error != "" || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, error %q, want %v", got, tree.Error, want)
	}
}

func TestTreeOfAVolume(t *testing.T) {
	t.Parallel()
	v := &kubeletVolume{t: t, dir: t.TempDir()}
	v.write(map[string]string{"user": "alice", "password": "old"})
	w := newTrees("")
	w.poll = time.Hour // by the kernel's signs alone
	s := watchTrees(t, w, v.dir)
	wantTree(t, s.next(t), map[string]string{
		"": "/", "..data": "-> ..2026_1", "..2026_1": "/", "..2026_1/user": "alice", "..2026_1/password": "old",
		"user": "-> ..data/user", "password": "-> ..data/password",
	})
	v.write(map[string]string{"user": "alice", "password": "new"})
	wantTree(t, s.next(t), map[string]string{
		"": "/", "..data": "-> ..2026_2", "..2026_2": "/", "..2026_2/user": "alice", "..2026_2/password": "new",
		"user": "-> ..data/user", "password": "-> ..data/password",
	})
}

// A volume that is swapped all the time is never seen with parts of two versions.
func TestTreeIsConsistent(t *testing.T) {
	t.Parallel()
	v := &kubeletVolume{t: t, dir: t.TempDir()}
	content := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range 20 {
			m[fmt.Sprint("key", i)] = strings.Repeat(fmt.Sprintf("%06d", n), 1000)
		}
		return m
	}
	v.write(content(0))
	w := newTrees("")
	w.poll = 3 * time.Millisecond
	s := watchTrees(t, w, v.dir)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; !stop.Load(); n++ {
			v.write(content(n))
			time.Sleep(5 * time.Millisecond) // kubelet's pause is a minute
		}
	})
	for seen := 0; seen < 20; {
		tree := s.next(t)
		if tree.Error != "" {
			continue // it may never have rested
		}
		seen++
		first, files := "", 0
		for _, e := range tree.Entries {
			if e.Mode&unix.S_IFMT != unix.S_IFREG {
				continue
			}
			files++
			if first == "" {
				first = string(e.Content)
			}
			if string(e.Content) != first {
				t.Fatalf("%s: %.6s beside %.6s", e.Path, e.Content, first)
			}
		}
		if files != 20 {
			t.Fatalf("%d files", files)
		}
	}
	stop.Store(true)
	wg.Wait()
}

func TestTreeOfAFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "app.conf")
	if err := os.WriteFile(name, []byte("a=1"), 0o640); err != nil {
		t.Fatal(err)
	}
	s := watchTrees(t, newTrees(""), name)
	tree := s.next(t)
	if len(tree.Entries) != 1 || tree.Root != name || tree.Entries[0].Path != "" || string(tree.Entries[0].Content) != "a=1" || tree.Entries[0].Mode != unix.S_IFREG|0o640 {
		t.Errorf("got %+v", tree)
	}
	if err := os.WriteFile(name+"~", []byte("a=2"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+"~", name); err != nil {
		t.Fatal(err)
	}
	for string(tree.Entries[0].Content) != "a=2" { // it may be seen with its new link count first
		if tree = s.next(t); tree.Error != "" {
			t.Fatal(tree.Error)
		}
	}
}

func TestTreeErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, large, later := filepath.Join(dir, "keys"), filepath.Join(dir, "large"), filepath.Join(dir, "later")
	if err := errors.Join(os.Mkdir(keys, 0o700), os.Mkdir(large, 0o700), os.WriteFile(filepath.Join(large, "f"), make([]byte, 5000), 0o600)); err != nil {
		t.Fatal(err)
	}
	w := newTrees(keys)
	w.limit, w.poll = 4096, 5*time.Millisecond
	s := watchTrees(t, w, keys, large, later, "relative", dir)
	for _, want := range []string{"permission denied", "too much to copy", "no such file", "not an absolute path", "permission denied"} {
		if tree := s.next(t); !strings.Contains(tree.Error, want) || len(tree.Entries) > 0 {
			t.Errorf("%s: got %q, want %q", tree.Root, tree.Error, want)
		}
	}
	if err := os.Mkdir(later, 0o700); err != nil {
		t.Fatal(err)
	}
	wantTree(t, s.next(t), map[string]string{"": "/"}) // errors are told once, and not for good
	if err := os.Truncate(filepath.Join(large, "f"), 1000); err != nil {
		t.Fatal(err)
	}
	if tree := s.next(t); tree.Root != large || tree.Error != "" {
		t.Errorf("got %+v", tree)
	}
}

// Where the kernel gives no signs the poll finds the changes.
func TestTreesWithoutSigns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newTrees("")
	w.poll = 5 * time.Millisecond
	w.signs = func() (treeSigns, error) { return nil, unix.EMFILE }
	s := watchTrees(t, w, dir)
	wantTree(t, s.next(t), map[string]string{"": "/"})
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	wantTree(t, s.next(t), map[string]string{"": "/", "link": "-> nowhere"})
}

func TestTreesThroughTheTunnel(t *testing.T) {
	t.Parallel()
	v := &kubeletVolume{t: t, dir: t.TempDir()}
	v.write(map[string]string{"key": "old"})
	c := startPod(t, nil).connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 16)
	done := make(chan error, 1)
	go func() {
		done <- c.WatchTrees(ctx, []string{v.dir}, func(tree *tunnel.Tree) {
			got <- contents(tree)[filepath.Join(fmt.Sprintf("..2026_%d", 1), "key")] + contents(tree)["..2026_2/key"]
		})
	}()
	if s := <-got; s != "old" {
		t.Errorf("got %q", s)
	}
	v.write(map[string]string{"key": "new"})
	if s := <-got; s != "new" {
		t.Errorf("got %q", s)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
