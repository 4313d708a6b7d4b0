package warden

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/lockfile"
	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

// Dir is where the record is. It outlives a reboot, as a resolv.conf does.
const Dir = "/var/lib/teleswap"

const (
	recordName = "host.json"
	lockName   = "host.lock"
	// lockPatience is how long a lock may be held by somebody who only looks.
	lockPatience = time.Second
	lockEvery    = 10 * time.Millisecond
)

// Record is what was done to the machine, and for whom. It holds no secrets: everybody on the machine may read it.
type Record struct {
	Session string    `json:"session"`
	About   string    `json:"about"`
	UID     int       `json:"uid"`
	PID     int       `json:"pid"` // the warden's
	Since   time.Time `json:"since"`
	Steps   []Step    `json:"steps"`
}

// Step is the undo of one effect: one field is set.
type Step struct {
	Device   string      `json:"device,omitempty"` // is deleted
	Resolver *osdns.Undo `json:"resolver,omitempty"`
}

// ErrHeld says that a living warden has the record.
var ErrHeld = errors.New("held by a living process")

// book is the record on disk, and its lock while it is open.
type book struct {
	dir  string
	lock *os.File
	Record
}

// openBook takes the lock, and reads the record where there is one. Error: ErrHeld.
func openBook(dir string) (*book, error) {
	// Only root writes in it; that a record is there everybody may see, since everybody's names were concerned.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the record's directory: %w", err)
	}
	deadline := time.Now().Add(lockPatience)
	for {
		f, err := lockfile.Open(filepath.Join(dir, lockName), 0o644)
		if err == nil {
			return readBook(dir, f)
		}
		if !errors.Is(err, lockfile.ErrHeld) {
			return nil, fmt.Errorf("lock the record: %w", err)
		}
		if time.Now().After(deadline) {
			return nil, ErrHeld
		}
		time.Sleep(lockEvery)
	}
}

func readBook(dir string, lock *os.File) (*book, error) {
	b := &book{dir: dir, lock: lock}
	half, _ := filepath.Glob(filepath.Join(dir, recordName+".*.tmp")) // the pattern is right
	for _, path := range half {
		_ = os.Remove(path) // of somebody who died while he wrote
	}
	r, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	b.Record = r
	return b, nil
}

// Read reads the record, whoever holds it. Without one the error is fs.ErrNotExist.
func Read(dir string) (Record, error) {
	var r Record
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, recordName), err)
	}
	return r, nil
}

// LeftBehind says whether there is a record that nobody holds. It needs no privileges.
func LeftBehind(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, recordName)); err != nil {
		return false
	}
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return lockfile.Try(f) == nil
}

// add writes a step down, before its effect.
func (b *book) add(s Step) error {
	b.Steps = append(b.Steps, s)
	return b.write()
}

// write writes the record and syncs it.
func (b *book) write() error {
	data, err := json.MarshalIndent(b.Record, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	if err := ledger.ReplaceFile(filepath.Join(b.dir, recordName), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// close lets go of the record, if there is one: somebody else may take it.
func (b *book) close() error { return b.lock.Close() }

// forget removes the record, for all is undone, and the directory if nothing else is in it.
func (b *book) forget() error {
	err := os.Remove(filepath.Join(b.dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("remove the record: %w", err), b.close())
	}
	// The lock file goes while it is held.
	err = errors.Join(os.Remove(b.lock.Name()), b.close())
	_ = os.Remove(b.dir) // another one is there already, or another user's files
	return err
}
