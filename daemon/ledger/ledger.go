// Package ledger keeps, on the laptop's disk, how to undo what sessions have done to
// a cluster. A record is written and synced before the effect that it undoes, so that
// whatever dies in between can be put right by whoever starts next.
//
// It knows no Kubernetes and no sessions: a record is names and JSON. One file a
// session, mode 0600, replaced atomically; beside it a lock file that is held by the
// process to which the session belongs, so that two daemons never undo the same thing.
package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/teleswap/teleswap/daemon/lockfile"
)

// Errors that callers tell apart.
var (
	// ErrHeld says that a living process holds the session.
	ErrHeld = errors.New("held by a living process")
	// ErrGone says that there is no record of the session.
	ErrGone = errors.New("no such record")
)

const (
	recordSuffix = ".json"
	lockSuffix   = ".lock"
)

// Record is what is known of one session.
type Record struct {
	Session    string          `json:"session"`
	Created    time.Time       `json:"created"`
	Target     string          `json:"target"` // as shown to the user
	Namespace  string          `json:"namespace"`
	Context    string          `json:"context,omitempty"`
	Connection json.RawMessage `json:"connection"` // without secrets
	Steps      []Step          `json:"steps"`      // in the order of their effects
	// Changed is when it was written last, by which a later process can tell how long ago the last effect was begun. Zero in the records
	// of old versions, and before the first write.
	Changed time.Time `json:"changed,omitzero"`
}

// Step is the undo of one step, as data.
type Step struct {
	Name string          `json:"name"`
	Undo json.RawMessage `json:"undo"`
}

// Ledger is a directory of records. It is safe for concurrent use, also between
// processes.
type Ledger struct {
	dir string
}

// Open makes the directory, with mode 0700, where it does not exist, and clears away
// what a process that died while it wrote has left beside the records.
func Open(dir string) (*Ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the ledger's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close the ledger's directory to others: %w", err)
	}
	l := &Ledger{dir: dir}
	return l, l.sweep()
}

// sweep removes half-written records, and locks without a record. What a living process
// holds stays.
func (l *Ledger) sweep() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	for _, entry := range entries {
		session, rest, _ := strings.Cut(entry.Name(), ".")
		if "."+rest == recordSuffix || validName(session) != nil {
			continue
		}
		lock, err := l.lock(session)
		if err != nil {
			continue // held, or not ours to mend
		}
		if strings.HasSuffix(rest, ".tmp") {
			err = os.Remove(filepath.Join(l.dir, entry.Name()))
		}
		if _, statErr := os.Lstat(l.path(session, recordSuffix)); errors.Is(statErr, fs.ErrNotExist) {
			err = errors.Join(err, os.Remove(lock.Name()))
		}
		if err := errors.Join(err, lock.Close()); err != nil {
			return fmt.Errorf("clear the ledger: %w", err)
		}
	}
	return nil
}

// Begin writes the first record of a session and holds it.
func (l *Ledger) Begin(r Record) (*Entry, error) {
	if err := validName(r.Session); err != nil {
		return nil, err
	}
	lock, err := l.lock(r.Session)
	if err != nil {
		return nil, err
	}
	e := &Entry{ledger: l, lock: lock, record: r}
	if err := l.write(r); err != nil {
		return nil, errors.Join(err, e.Release())
	}
	return e, nil
}

// Take holds the record of a session whose process has died. Errors: ErrHeld, ErrGone.
func (l *Ledger) Take(session string) (*Entry, error) {
	if err := validName(session); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(l.path(session, recordSuffix)); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	lock, err := l.lock(session)
	if err != nil {
		return nil, err
	}
	r, err := l.read(session)
	if err != nil {
		if errors.Is(err, ErrGone) {
			// Forgotten by its holder between the look and the lock.
			err = errors.Join(err, os.Remove(lock.Name()))
		}
		return nil, errors.Join(err, lock.Close())
	}
	return &Entry{ledger: l, lock: lock, record: r}, nil
}

// Records reads all records, oldest first, whoever holds them. Files that cannot be
// read are reported in the error; the others are returned all the same.
func (l *Ledger) Records() ([]Record, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	var records []Record
	var broken []error
	for _, entry := range entries {
		session, isRecord := strings.CutSuffix(entry.Name(), recordSuffix)
		if !isRecord || validName(session) != nil {
			continue
		}
		r, err := l.read(session)
		switch {
		case errors.Is(err, ErrGone):
		case err != nil:
			broken = append(broken, err)
		default:
			records = append(records, r)
		}
	}
	sort.SliceStable(records, func(i, j int) bool { return records[i].Created.Before(records[j].Created) })
	return records, errors.Join(broken...)
}

func (l *Ledger) path(session, suffix string) string {
	return filepath.Join(l.dir, session+suffix)
}

func (l *Ledger) lock(session string) (*os.File, error) {
	f, err := lockfile.Open(l.path(session, lockSuffix), 0o600)
	if errors.Is(err, lockfile.ErrHeld) {
		err = ErrHeld
	}
	if err != nil {
		return nil, fmt.Errorf("lock session %s: %w", session, err)
	}
	return f, nil
}

func (l *Ledger) read(session string) (Record, error) {
	data, err := os.ReadFile(l.path(session, recordSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, ErrGone
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the record of session %s: %w", session, err)
	}
	return decode(session, data)
}

func decode(session string, data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("record of session %s is damaged: %w", session, err)
	}
	if r.Session != session {
		return Record{}, fmt.Errorf("record of session %s is damaged: it names session %q", session, r.Session)
	}
	return r, nil
}

func (l *Ledger) write(r Record) error {
	r.Changed = time.Now()
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record of session %s: %w", r.Session, err)
	}
	if err := ReplaceFile(l.path(r.Session, recordSuffix), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the record of session %s: %w", r.Session, err)
	}
	return nil
}

// ReplaceFile writes a file so that after a crash either the old or the new content
// is there, and the new one once it has returned.
func ReplaceFile(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// validName keeps a session's id from naming a file elsewhere.
func validName(session string) error {
	if session == "" {
		return errors.New("session id is empty")
	}
	for _, r := range session {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return fmt.Errorf("session id %q: only a-z, 0-9 and - are allowed", session)
		}
	}
	return nil
}
