//go:build linux

package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keptUnused is how long a result stays that no cluster has asked for: each is some 330 MB, and every change of
// the parts makes another.
const keptUnused = 14 * 24 * time.Hour

// resultName is the name of a result's folder; with an ending, of one that is being made or removed.
var resultName = regexp.MustCompile(`^([0-9a-f]{16})(\.tmp|\.old)?$`)

// use notes that the result is asked for now; false where there is none. The caller holds its lock.
func use(dir string) bool {
	now := time.Now()
	return os.Chtimes(dir, now, now) == nil
}

// prune removes the results that nobody has asked for in a while, and what a builder or a pruner that was killed has
// left. It keeps those of key, whatever somebody works at, and those whose programs run. It tells
// of each, and does without what it cannot do: the cache is in nobody's way.
func (b *Builder) prune(key string, now time.Time) {
	entries, err := os.ReadDir(b.Cache)
	if err != nil {
		b.Logger.Debug("old programs stay", "err", err)
		return
	}
	for _, e := range entries {
		m := resultName.FindStringSubmatch(e.Name())
		if m == nil || m[1] == key || !e.IsDir() {
			continue
		}
		removed, err := b.remove(m[1], e.Name(), now)
		switch {
		case err != nil:
			b.Logger.Debug("old programs stay", "in", e.Name(), "err", err)
		case removed:
			b.Logger.Info("removed programs of old sources from the cache", "folder", filepath.Join(b.Cache, e.Name()))
		}
	}
}

// remove removes one folder of a key, if it may.
func (b *Builder) remove(key, name string, now time.Time) (removed bool, err error) {
	dir := filepath.Join(b.Cache, key)
	f, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("lock it: %w", err)
	}
	if name != key { // with the lock ours nobody works at it
		return true, os.RemoveAll(filepath.Join(b.Cache, name))
	}
	info, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	if now.Sub(info.ModTime()) < keptUnused {
		return false, nil
	}
	if runs, err := runsFrom(dir); runs || err != nil {
		return false, err
	}
	old := dir + ".old" // whole or not there: who looks without the lock sees no half of it
	if err := errors.Join(os.RemoveAll(old), os.Rename(dir, old)); err != nil {
		return false, err
	}
	return true, os.RemoveAll(old)
}

// runsFrom says whether some process's program is below a folder: a cluster of another clone may have been up for long, and
// starts more of them as its pods come.
func runsFrom(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir) // as the kernel names programs
	if err != nil {
		return false, err
	}
	programs, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is a good one
	for _, link := range programs {
		if program, err := os.Readlink(link); err == nil && strings.HasPrefix(program, dir+string(filepath.Separator)) {
			return true, nil
		}
	}
	return false, nil
}
