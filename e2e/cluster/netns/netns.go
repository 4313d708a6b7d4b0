//go:build linux

// Package netns makes, enters and removes network namespaces that have a name.
// A namespace is held by a file of the caller's, and ip(8) finds it by a
// symbolic link in its own folder: that folder itself becomes a mount point at
// the first ip netns add, which would hide what was mounted there before. The
// package never uses ip netns exec, which remounts /sys and so hides the cgroups
// from what it runs.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// linkDir is where ip(8) looks for namespaces (ip-netns(8)).
const linkDir = "/run/netns"

// Namespace is a network namespace with a name. The zero value is none.
type Namespace struct {
	Name string // what ip -n takes
	File string // what it is mounted on
}

func (n Namespace) link() string { return filepath.Join(linkDir, n.Name) }

// Create makes the namespace, with its loopback still down. One that is already
// there is an error that satisfies errors.Is(err, fs.ErrExist).
func (n Namespace) Create() error {
	if err := n.create(); err != nil {
		return fmt.Errorf("create network namespace %s: %w", n.Name, err)
	}
	return nil
}

func (n Namespace) create() error {
	for _, dir := range []string{linkDir, filepath.Dir(n.File)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(n.File, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, n.File, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind to %s: %w", n.File, err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, os.Remove(n.File))
	}
	return os.Symlink(n.File, n.link())
}

// Delete takes away the name and the file. The namespace itself goes with the
// last process in it. One that is not there is no error.
func (n Namespace) Delete() error {
	if err := n.remove(); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", n.Name, err)
	}
	return nil
}

func (n Namespace) remove() error {
	if err := os.Remove(n.link()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Not if others have names there, or ip(8) has made it a mount point.
	_ = os.Remove(linkDir)
	for mounted := true; mounted; {
		switch err := unix.Unmount(n.File, unix.MNT_DETACH); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			mounted = false
		case err != nil:
			return err
		}
	}
	if err := os.Remove(n.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Traces tells whether the name or the file is there, whole or half made.
func (n Namespace) Traces() bool {
	_, link := os.Lstat(n.link())
	_, file := os.Lstat(n.File)
	return link == nil || file == nil
}

// Exists tells whether the namespace is there, and not only an empty file that
// a start cut off left.
func (n Namespace) Exists() bool {
	var st unix.Statfs_t
	return unix.Statfs(n.File, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Enter moves the calling thread into the namespace, for good. The caller has
// locked the goroutine to its thread, and is about to execute a program.
func (n Namespace) Enter() error {
	f, err := os.Open(n.File)
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.Name, err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.Name, err)
	}
	return nil
}

// Do runs f on a thread that is in the namespace. Sockets that f makes stay
// there whoever uses them later; goroutines that f starts do not.
func (n Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := n.Enter(); err != nil {
			return err
		}
		return f()
	})
}

// DoFile is Do for a namespace held open as a file.
func DoFile(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with f: it is never
// unlocked, so the runtime throws it away instead of giving it, in the wrong
// namespace, to another goroutine.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end, and its namespace is taken for the whole
			// process's by who looks into /proc. While we hold it, another is used.
			defer runtime.UnlockOSThread()
			result <- onThread(f)
			return
		}
		result <- f()
	}()
	return <-result
}

// Members lists the processes that are in the namespace now. One that is not
// there has none.
func (n Namespace) Members() ([]int, error) {
	if !n.Exists() {
		return nil, nil
	}
	want, err := inode(n.File)
	if err != nil {
		return nil, fmt.Errorf("look at network namespace %s: %w", n.Name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes in network namespace %s: %w", n.Name, err)
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		// A process that ended meanwhile is in no namespace.
		if got, err := inode(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && got == want {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

type inodeID struct{ dev, ino uint64 }

func inode(p string) (inodeID, error) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return inodeID{}, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	return inodeID{dev: uint64(st.Dev), ino: st.Ino}, nil
}
