package lockfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	first, second := open(), open()
	if err := Try(first); err != nil {
		t.Fatal(err)
	}
	if err := Try(second); !errors.Is(err, ErrHeld) {
		t.Errorf("while it is held: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Try(second); err != nil {
		t.Errorf("once it was let go: %v", err)
	}
	if err := Try(first); err == nil || errors.Is(err, ErrHeld) {
		t.Errorf("a closed file: %v", err)
	}
}

// TestOpenOutlivesARemoval: a holder removes the file while it is opened, as who sweeps locks without a record does.
func TestOpenOutlivesARemoval(t *testing.T) {
	for _, tc := range []struct {
		name   string
		others bool // somebody else has made and locked the next one
		want   error
	}{
		{"and nobody comes", false, nil},
		{"and somebody else comes", true, ErrHeld},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			holder, err := Open(path, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			tries := 0
			f, err := open(path, 0o600, func(f *os.File) error {
				if tries++; tries > 1 {
					return Try(f)
				}
				if err := errors.Join(os.Remove(path), holder.Close()); err != nil {
					t.Error(err)
				}
				if tc.others {
					other, err := Open(path, 0o600)
					if err != nil {
						t.Error(err)
					}
					t.Cleanup(func() { _ = other.Close() })
				}
				return Try(f)
			})
			if f != nil {
				defer func() { _ = f.Close() }()
			}
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if _, err := Open(path, 0o600); !errors.Is(err, ErrHeld) {
				t.Errorf("who comes next got %v, want ErrHeld", err)
			}
		})
	}
}

func TestOpenTellsWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := Open(filepath.Join(path, "below"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its folder: %v", err)
	}
	broken := errors.New("no locks here")
	if _, err := open(path, 0o600, func(*os.File) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("where it cannot be locked: %v", err)
	}
}
