package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// treePoll is how often a tree is looked at without a sign of change: what is changed
	// through another mount, or on another machine, gives none.
	treePoll = 5 * time.Second
	// treePollBlind is the same where the kernel gives no signs at all (inotify's limits).
	treePollBlind = time.Second
	// snapshotTries is how often a tree is read anew that changed meanwhile, and
	// snapshotPause the time between.
	snapshotTries = 50
	snapshotPause = 20 * time.Millisecond
	// snapshotFailures in a row are no longer taken for a change in the midst.
	snapshotFailures = 5
	// entryCost is what an entry counts besides its name and content.
	entryCost = 32
)

var (
	errTreeLarge   = fmt.Errorf("larger than %d MiB, which is too much to copy", tunnel.MaxTree>>20)
	errTreeRestive = errors.New("changes without a pause: no consistent copy can be made")
)

// trees reads folders of the pod whole and watches them.
type trees struct {
	refuse string // the keys' folder
	limit  int    // bytes of a tree; tunnel.MaxTree but in tests
	poll   time.Duration
	signs  func() (treeSigns, error) // newInotify but in tests
}

// treeSigns is what tells of changes.
type treeSigns interface {
	// Watch adds a folder or file; one that is watched already stays so.
	Watch(path string) error
	// Changed gets a value after a change.
	Changed() <-chan struct{}
	Close() error
}

func newTrees(refuse string) *trees {
	return &trees{
		refuse: refuse, limit: tunnel.MaxTree, poll: treePoll,
		signs: func() (treeSigns, error) { return newInotify() },
	}
}

// watched is one root and what was said of it last.
type watched struct {
	root string
	scan []scanned
	said *tunnel.Tree
}

// watch is tunnel.ServerConfig's WatchTrees.
func (t *trees) watch(ctx context.Context, roots []string, give func(*tunnel.Tree) error) error {
	poll := t.poll
	signs, err := t.signs()
	if err != nil {
		signs, poll = blind{}, min(poll, treePollBlind)
	}
	defer func() { _ = signs.Close() }()
	watches := make([]*watched, len(roots))
	for i, root := range roots {
		watches[i] = &watched{root: root}
	}
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		for _, w := range watches {
			tree := t.check(ctx, w, signs)
			if tree == nil {
				continue
			}
			if err := give(tree); err != nil {
				return err
			}
		}
		select {
		case <-signs.Changed():
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// check returns the tree where it has changed since it was last told.
func (t *trees) check(ctx context.Context, w *watched, signs treeSigns) *tunnel.Tree {
	_ = signs.Watch(w.root) // where that fails there is the poll
	now, err := t.scan(w.root)
	if err == nil && w.said != nil && w.said.Error == "" && slices.Equal(now, w.scan) {
		return nil
	}
	if err != nil && w.said != nil && w.said.Error == err.Error() {
		return nil
	}
	entries, now, err := t.snapshot(ctx, w.root, now, err, signs)
	if ctx.Err() != nil {
		return nil
	}
	tree := &tunnel.Tree{Root: w.root, Entries: entries}
	if err != nil {
		tree.Entries, tree.Error = nil, err.Error()
		now = nil
	}
	w.scan = now
	if w.said != nil && reflect.DeepEqual(*w.said, *tree) {
		return nil
	}
	w.said = tree
	return tree
}

// scanned is what tells whether an entry is the same as before.
type scanned struct {
	path, link        string
	dev, ino          uint64
	mode              uint32
	size              int64
	modified, changed int64 // nanoseconds
}

// scan lists a root, a folder before what is in it, in the order of their names.
func (t *trees) scan(root string) ([]scanned, error) {
	if err := t.admit(root); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: root, Err: err}
	}
	all := []scanned{newScanned("", &st)}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return all, nil
	}
	cost := 0
	err := t.scanDir(root, "", &all, &cost)
	return all, err
}

// admit refuses a root that is none, or the keys'.
func (t *trees) admit(root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("%q is not an absolute path", root)
	}
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	if t.refuse != "" && within(t.refuse, real) {
		return &os.PathError{Op: "open", Path: root, Err: syscall.EACCES}
	}
	return nil
}

// within reports whether the two overlap: one is the other, or in it.
func within(dir, path string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	dir, path = dir+"/", strings.TrimSuffix(path, "/")+"/"
	return strings.HasPrefix(path, dir) || strings.HasPrefix(dir, path)
}

func newScanned(path string, st *unix.Stat_t) scanned {
	return scanned{
		path: path, dev: uint64(st.Dev), ino: st.Ino, mode: st.Mode, size: st.Size,
		modified: st.Mtim.Nano(), changed: st.Ctim.Nano(),
	}
}

func (t *trees) scanDir(root, rel string, all *[]scanned, cost *int) error {
	dir := filepath.Join(root, rel)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	current := ""
	if rel == "" {
		current, _ = os.Readlink(filepath.Join(dir, "..data"))
	}
	for _, e := range entries {
		name := e.Name()
		if rel == "" && strings.HasPrefix(name, "..") && name != "..data" && name != current {
			continue // kubelet's: on its way in or out
		}
		path := filepath.Join(rel, name)
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, path), &st); err != nil {
			return &os.PathError{Op: "lstat", Path: filepath.Join(root, path), Err: err}
		}
		s := newScanned(path, &st)
		*cost += entryCost + len(path)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if s.link, err = os.Readlink(filepath.Join(root, path)); err != nil {
				return err
			}
			*cost += len(s.link)
		case unix.S_IFREG:
			*cost += int(min(st.Size, int64(t.limit)+1))
		}
		if *cost > t.limit {
			return errTreeLarge
		}
		*all = append(*all, s)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := t.scanDir(root, path, all, cost); err != nil {
				return err
			}
		}
	}
	return nil
}

// snapshot reads a tree until nothing has changed while it was read, and returns it with its
// scan. It begins with a scan or its error, which may be due to a change in its midst.
func (t *trees) snapshot(ctx context.Context, root string, now []scanned, err error, signs treeSigns) ([]tunnel.TreeEntry, []scanned, error) {
	failures := 0
	for range snapshotTries {
		if err == nil {
			failures = 0
			for _, s := range now {
				if s.mode&unix.S_IFMT == unix.S_IFDIR && s.path != "" {
					_ = signs.Watch(filepath.Join(root, s.path)) // where that fails there is the poll
				}
			}
			var entries []tunnel.TreeEntry
			entries, err = t.read(root, now)
			if err == nil {
				var after []scanned
				if after, err = t.scan(root); err == nil && slices.Equal(now, after) {
					return entries, now, nil
				}
			}
		}
		if err != nil {
			failures++
		}
		if errors.Is(err, errTreeLarge) || failures >= snapshotFailures || !pause(ctx, snapshotPause) {
			return nil, nil, err
		}
		now, err = t.scan(root)
	}
	if err == nil {
		err = errTreeRestive
	}
	return nil, nil, err
}

// read reads what was scanned.
func (t *trees) read(root string, all []scanned) ([]tunnel.TreeEntry, error) {
	entries := make([]tunnel.TreeEntry, len(all))
	left := t.limit
	for i, s := range all {
		e := tunnel.TreeEntry{Path: s.path, Mode: s.mode, Link: s.link}
		if s.mode&unix.S_IFMT == unix.S_IFREG {
			var err error
			if e.Content, err = readBounded(filepath.Join(root, s.path), left); err != nil {
				return nil, err
			}
			left -= len(e.Content)
		}
		entries[i] = e
	}
	return entries, nil
}

func readBounded(path string, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(content) > limit {
		err = errTreeLarge
	}
	return content, err
}

// blind gives no signs.
type blind struct{}

func (blind) Watch(string) error       { return errors.ErrUnsupported }
func (blind) Changed() <-chan struct{} { return nil }
func (blind) Close() error             { return nil }
