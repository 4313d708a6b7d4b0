package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// dataLink is what the kubelet swaps when a Secret or ConfigMap has changed: the names that programs read are links
	// through it. See AtomicWriter in k8s.io/kubernetes/pkg/volume/util.
	dataLink = "..data"
	// dataTemp is the name of its successor for a moment, the kubelet's.
	dataTemp = "..data_tmp"
	// otherTemp is that of any other file's successor.
	otherTemp = "..teleswap_tmp"

	// The types in an entry's mode are Linux's, whatever we run on (inode(7)).
	typeMask = 0o170000
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

// copies keeps synced volumes like the pod's.
type copies struct {
	cfg     Config
	roots   []string
	targets map[string][]*target // by root

	mu      sync.Mutex
	pending map[string]bool // roots that have not arrived yet
	arrived chan struct{}   // closed when there is none
}

// newCopies takes the handles of the mounts that are not live.
func newCopies(cfg Config) (*copies, error) {
	c := &copies{cfg: cfg, targets: map[string][]*target{}, pending: map[string]bool{}, arrived: make(chan struct{})}
	var errs []error
	for _, m := range cfg.Mounts {
		if m.Live || !m.given() {
			continue
		}
		t, err := openTarget(m, cfg.Mounts)
		if err != nil {
			errs = append(errs, fmt.Errorf("open the sandbox's %s: %w", m.Path, err))
			continue
		}
		if c.targets[m.Path] == nil {
			c.roots = append(c.roots, m.Path)
		}
		c.targets[m.Path] = append(c.targets[m.Path], t)
		c.pending[m.Path] = true
	}
	if len(c.pending) == 0 {
		close(c.arrived)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// follow applies what arrives until ctx ends.
func (c *copies) follow(ctx context.Context) {
	if len(c.roots) == 0 {
		return
	}
	for wait := c.cfg.Redial; ctx.Err() == nil; wait = min(2*wait, longestRedial) {
		came := false
		err := c.cfg.Trees(ctx, c.roots, func(t *tunnel.Tree) {
			came = true
			c.apply(t)
		})
		if ctx.Err() != nil {
			return
		}
		if came {
			wait = c.cfg.Redial
		}
		c.cfg.Logger.Info("watching the pod's files again", "error", err)
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// apply brings the copies of one root up to date.
func (c *copies) apply(tree *tunnel.Tree) {
	for _, t := range c.targets[tree.Root] {
		err := t.update(tree)
		if err != nil && t.complaint != err.Error() {
			c.cfg.Warn("the pod's %s cannot be copied: %v", tree.Root, err)
			t.complaint = err.Error()
		}
		if err == nil {
			t.complaint = ""
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pending[tree.Root] {
		return
	}
	delete(c.pending, tree.Root)
	if len(c.pending) == 0 {
		close(c.arrived)
	}
}

// missing are the roots that have not arrived.
func (c *copies) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.pending))
}

func (c *copies) close() error {
	var errs []error
	for _, targets := range c.targets {
		for _, t := range targets {
			errs = append(errs, t.root.Close())
		}
	}
	return errors.Join(errs...)
}

// target is one synced volume. It is for one goroutine.
type target struct {
	root      *os.Root
	file      string   // the name of the one file that the volume is; empty: it is a directory
	nested    []string // of other mounts in it: they are not ours to change
	have      map[string]tunnel.TreeEntry
	complaint string
}

// openTarget opens a mount's directory, or that behind its handle, which stays the caller's.
func openTarget(m Mount, all []Mount) (*target, error) {
	dir := m.Dir
	if m.Handle != nil {
		dir = fmt.Sprintf("/proc/self/fd/%d", m.Handle.Fd())
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t := &target{root: root, have: map[string]tunnel.TreeEntry{}}
	if m.File {
		t.file = m.fileName()
	}
	for _, other := range all {
		if below, found := strings.CutPrefix(other.Path, strings.TrimSuffix(m.Path, "/")+"/"); found {
			t.nested = append(t.nested, path.Clean(below))
		}
	}
	return t, nil
}

// update makes the volume like tree, as the kubelet does: what is new is written beside what is there, the link ..data
// is swapped in one rename, and only then what is no longer there goes. Whoever reads through the links sees the old
// content or the new, never a mixture, and inotify reports what it reports in the pod.
func (t *target) update(tree *tunnel.Tree) error {
	if tree.Error != "" {
		return errors.New(tree.Error)
	}
	if t.file != "" {
		return t.updateFile(tree)
	}
	want := map[string]tunnel.TreeEntry{}
	for _, e := range tree.Entries {
		switch {
		case e.Path != "" && !filepath.IsLocal(e.Path):
			return fmt.Errorf("the agent names a file %q", e.Path)
		case e.Path == "" && e.Mode&typeMask != typeDir:
			return errors.New("it is no directory any more")
		case !t.isNested(e.Path):
			want[e.Path] = e
		}
	}
	names := slices.Sorted(maps.Keys(want)) // a directory comes before what is in it
	for _, pass := range []func(tunnel.TreeEntry) bool{isNoLink, isDataLink, isOtherLink} {
		for _, name := range names {
			if e := want[name]; pass(e) {
				if err := t.put(e); err != nil {
					return err
				}
			}
		}
	}
	gone := slices.Sorted(maps.Keys(t.have))
	for _, name := range slices.Backward(gone) {
		if _, kept := want[name]; kept || name == "" {
			continue
		}
		// A directory that another mount was put into stays.
		err := t.root.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) &&
			!errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
			return err
		}
		delete(t.have, name)
	}
	return nil
}

func isLink(e tunnel.TreeEntry) bool { return e.Mode&typeMask == typeLink }

func isNoLink(e tunnel.TreeEntry) bool    { return !isLink(e) }
func isDataLink(e tunnel.TreeEntry) bool  { return isLink(e) && e.Path == dataLink }
func isOtherLink(e tunnel.TreeEntry) bool { return isLink(e) && e.Path != dataLink }

// isNested tells whether a path belongs to another mount.
func (t *target) isNested(name string) bool {
	return slices.ContainsFunc(t.nested, func(n string) bool { return name == n || strings.HasPrefix(name, n+"/") })
}

// put makes one entry, unless it is there as it should be.
func (t *target) put(e tunnel.TreeEntry) error {
	old, known := t.have[e.Path]
	if known && same(old, e) {
		return nil
	}
	kind := e.Mode & typeMask
	if known && old.Mode&typeMask != kind {
		if err := t.root.RemoveAll(e.Path); err != nil {
			return err
		}
		known = false
	}
	var err error
	switch kind {
	case typeDir:
		err = t.putDir(e)
	case typeLink:
		err = t.putLink(e)
	case typeFile:
		err = t.putFile(e, known && string(old.Content) == string(e.Content))
	default:
		return nil // sockets and the like are not copied; the kubelet makes none
	}
	if err == nil {
		t.have[e.Path] = e
	}
	return err
}

func (t *target) putDir(e tunnel.TreeEntry) error {
	name := e.Path
	if name == "" {
		name = "."
	}
	if err := t.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// The owner, who is ourselves, goes on writing whatever the pod's mode is.
	return t.root.Chmod(name, modeOf(e.Mode)|0o700)
}

func (t *target) putLink(e tunnel.TreeEntry) error {
	temp := path.Join(path.Dir(e.Path), otherTemp)
	if e.Path == dataLink {
		temp = dataTemp
	}
	if err := t.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := t.root.Lstat(e.Path); errors.Is(err, fs.ErrNotExist) && e.Path != dataLink {
		return t.root.Symlink(e.Link, e.Path)
	}
	if err := t.root.Symlink(e.Link, temp); err != nil {
		return err
	}
	return t.root.Rename(temp, e.Path)
}

func (t *target) putFile(e tunnel.TreeEntry, modeOnly bool) error {
	if modeOnly {
		return t.root.Chmod(e.Path, modeOf(e.Mode))
	}
	name := e.Path
	_, err := t.root.Lstat(name)
	if err == nil {
		name = path.Join(path.Dir(name), otherTemp)
		if err := t.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := write(t.root, name, os.O_CREATE|os.O_EXCL, e); err != nil {
		return err
	}
	if name != e.Path {
		return t.root.Rename(name, e.Path)
	}
	return nil
}

// updateFile fills the one file of the volume. It is that file which is bound to its path in the sandbox, so it is never
// replaced by another. In the pod a file mounted by subPath does not change either.
func (t *target) updateFile(tree *tunnel.Tree) error {
	if len(tree.Entries) != 1 || tree.Entries[0].Path != "" || tree.Entries[0].Mode&typeMask != typeFile {
		return errors.New("it is no file any more")
	}
	e := tree.Entries[0]
	if old, known := t.have[""]; known && same(old, e) {
		return nil
	}
	if err := write(t.root, t.file, os.O_CREATE|os.O_TRUNC, e); err != nil {
		return err
	}
	t.have[""] = e
	return nil
}

// write writes a file's content and then gives it its mode.
func write(root *os.Root, name string, flags int, e tunnel.TreeEntry) error {
	f, err := root.OpenFile(name, os.O_WRONLY|flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(e.Content)
	return errors.Join(err, f.Chmod(modeOf(e.Mode)), f.Close())
}

func same(a, b tunnel.TreeEntry) bool {
	return a.Mode == b.Mode && a.Link == b.Link && string(a.Content) == string(b.Content)
}

// modeOf makes an os.FileMode of st_mode's permissions.
func modeOf(st uint32) os.FileMode {
	mode := os.FileMode(st & 0o777)
	for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if st&bit != 0 {
			mode |= m
		}
	}
	return mode
}
