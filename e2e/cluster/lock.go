//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lock makes this the only run that changes the clone's cluster, and waits for
// another that is at it. The lock goes with the process, however that ends; its
// file stays, since removing it would split the lock in two.
func (n Names) lock(ctx context.Context, logger *slog.Logger) (unlock func(), err error) {
	if err := mkdirLike(n.State, n.Clone); err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(n.State, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	said := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock the cluster: %w", err)
		}
		if !said {
			holder := make([]byte, 16)
			k, _ := f.ReadAt(holder, 0) // only to tell; the file may be empty yet
			logger.Info("another run for this clone is at work; waiting for it", "pid", string(bytes.TrimSpace(holder[:k])))
			said = true
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	// For those who wait: never empty, once it was written.
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if _, err := f.WriteAt([]byte(pid), 0); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	if err := f.Truncate(int64(len(pid))); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// mkdirLike makes a folder and those above it, owned as the folder like: what
// root makes in a user's clone is the user's.
func mkdirLike(dir, like string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := mkdirLike(filepath.Dir(dir), like); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return chownLike(dir, like)
}

func chownLike(p, like string) error {
	var st unix.Stat_t
	if err := unix.Stat(like, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: like, Err: err}
	}
	return os.Lchown(p, int(st.Uid), int(st.Gid))
}

// parentOf reads the parent's id from proc_pid_stat(5); 0 when there is none.
func parentOf(stat []byte) int {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0
	}
	fields := strings.Fields(string(stat[i+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return ppid
}
