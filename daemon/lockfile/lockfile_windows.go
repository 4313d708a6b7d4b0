package lockfile

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// Try takes the lock of f (LockFileEx), or returns ErrHeld at once. It ends when f is closed or the process dies.
func Try(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrHeld
	}
	return err
}
