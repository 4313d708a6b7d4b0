// Package lockfile takes the lock of a file that the system drops when its holder ends, however it ends. It knows neither
// what is locked nor how long to wait.
package lockfile

import (
	"errors"
	"io/fs"
	"os"
)

// ErrHeld says that another open file, of this process or another, holds the lock.
var ErrHeld = errors.New("held by another process")

// Open opens a file, which it makes with mode perm where it is missing, and takes its lock, or returns ErrHeld at once. It is
// for files that their holders remove while they hold them: the lock is that of the file that has the name when Open returns,
// not of one that was removed between the opening and the locking, whose lock says nothing to who comes next. The lock ends
// when the file is closed, which is the caller's, or the process dies.
func Open(path string, perm os.FileMode) (*os.File, error) { return open(path, perm, Try) }

func open(path string, perm os.FileMode, lock func(*os.File) error) (*os.File, error) {
	for { // once more for each removal
		f, err := openFile(path, perm)
		if err != nil {
			return nil, err
		}
		named := false
		if err = lock(f); err == nil {
			named, err = hasName(f, path)
		}
		if err == nil && named {
			return f, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// hasName says whether the path leads to the file still.
func hasName(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}
