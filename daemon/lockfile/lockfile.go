// Package lockfile takes the lock of a file that the system drops when its holder ends, however it ends. It knows neither
// what is locked nor how long to wait.
package lockfile

import "errors"

// ErrHeld says that another open file, of this process or another, holds the lock.
var ErrHeld = errors.New("held by another process")
