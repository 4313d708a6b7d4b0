package api

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/teleswap/teleswap/daemon/lockfile"
)

// lockEvery is how often a lock that is held is tried again: system calls that wait
// for a lock cannot be given up.
const lockEvery = 10 * time.Millisecond

// Lock takes the lock of a file, which it makes where it is missing, and waits for it
// until ctx ends. The lock ends when the file is closed or the process dies.
func Lock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	for {
		err := lockfile.Try(f)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, lockfile.ErrHeld) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		timer := time.NewTimer(lockEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
	}
}
