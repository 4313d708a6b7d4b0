package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Entry is a record held by this process. It is not safe for concurrent use. End it
// by Forget, or by Release to leave the record to whoever comes next.
type Entry struct {
	ledger *Ledger
	lock   *os.File
	record Record
}

// Record is the record as last written, but for Changed, which is that of when it was taken. The caller must not change its steps.
func (e *Entry) Record() Record { return e.record }

// Append writes one step more. When it returns nil the step is on the disk, and its
// effect may begin.
func (e *Entry) Append(step Step) error {
	next := e.record
	next.Steps = append(slices.Clone(e.record.Steps), step)
	if err := e.ledger.write(next); err != nil {
		return err
	}
	e.record = next
	return nil
}

// Forget removes the record: nothing of the session is left to undo.
func (e *Entry) Forget() error {
	err := os.Remove(e.ledger.path(e.record.Session, recordSuffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget session %s: %w", e.record.Session, err)
	}
	err = syncDir(e.ledger.dir)
	// The lock file goes while it is still held: who opens it in between finds no
	// record under it.
	if rmErr := os.Remove(e.lock.Name()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return errors.Join(err, e.lock.Close())
}

// Release leaves the record where it is, to be taken by somebody else.
func (e *Entry) Release() error { return e.lock.Close() }
