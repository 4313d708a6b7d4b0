package scene

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lock lets one run of these tests at a time onto the machine: they measure times, and share device names. It waits for the
// other, aloud. The kernel gives the lock back with its holder's end, however that comes.
func (l *Lab) lock(ctx context.Context) error {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("teleswap-e2e-%d.lock", os.Geteuid()))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of e2e runs: %w", err)
	}
	l.locked = f
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if err != syscall.EWOULDBLOCK {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		holder, _ := os.ReadFile(path) // only for the message
		l.say("another run of the e2e tests is at work (pid %s); waiting for it", strings.TrimSpace(string(holder)))
		if err := waitLocked(ctx, f); err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// waitLocked waits in the kernel's queue, which is served in the order of arrival. Its goroutine ends with the lock; where ctx ends
// first this process is about to end.
func waitLocked(ctx context.Context, f *os.File) error {
	locked := make(chan error, 1)
	go func() { // ends with the lock
		for {
			err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
			if err != syscall.EINTR {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
