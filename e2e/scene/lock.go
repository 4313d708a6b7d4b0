package scene

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lockInterval is how often a run that waits for another one looks.
const lockInterval = 500 * time.Millisecond

// lock lets one run of these tests at a time onto the machine: they measure times, and share device names. It waits for the
// other, aloud. The kernel gives the lock back with its holder's end, however that comes.
func (l *Lab) lock(ctx context.Context) error {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("teleswap-e2e-%d.lock", os.Geteuid()))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of e2e runs: %w", err)
	}
	l.locked = f
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if err != syscall.EWOULDBLOCK {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			holder, _ := os.ReadFile(path) // only for the message
			l.say("another run of the e2e tests is at work (pid %s); waiting for it", strings.TrimSpace(string(holder)))
		}
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
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
