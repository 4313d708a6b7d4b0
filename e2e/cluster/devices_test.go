//go:build linux

package cluster

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bookOf keeps a book about a plain file that plays a device.
func bookOf(t *testing.T, mode os.FileMode) (*deviceBook, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "device")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return &deviceBook{
		file: filepath.Join(dir, "state", "devices.json"), devices: []device{{path: path}},
		known: func(string) bool { return true }, logger: discard(),
	}, path
}

func modeOf(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestDevices(t *testing.T) {
	type do struct {
		verb, id string
		want     os.FileMode
	}
	for _, tt := range []struct {
		name  string
		mode  os.FileMode
		known func(string) bool
		steps []do
	}{
		{"one cluster", 0o600, nil, []do{{"acquire", "a", 0o666}, {"release", "a", 0o600}}},
		{"again", 0o600, nil, []do{{"acquire", "a", 0o666}, {"acquire", "a", 0o666}, {"release", "a", 0o600}}},
		{"the last of two restores", 0o640, nil, []do{{"acquire", "a", 0o666}, {"acquire", "b", 0o666}, {"release", "a", 0o666}, {"release", "b", 0o640}}},
		{"open already", 0o666, nil, []do{{"acquire", "a", 0o666}, {"release", "a", 0o666}}},
		{"never acquired", 0o600, nil, []do{{"release", "a", 0o600}}},
		{"a cluster that is gone does not count", 0o600, func(id string) bool { return id != "b" }, []do{{"acquire", "b", 0o666}, {"acquire", "a", 0o666}, {"release", "a", 0o600}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			book, path := bookOf(t, tt.mode)
			if tt.known != nil {
				book.known = tt.known
			}
			for _, s := range tt.steps {
				run := book.acquire
				if s.verb == "release" {
					run = book.release
				}
				if err := run(s.id); err != nil {
					t.Fatalf("%s %s: %v", s.verb, s.id, err)
				}
				if got := modeOf(t, path); got != s.want {
					t.Errorf("after %s %s: mode %04o, want %04o", s.verb, s.id, got, s.want)
				}
			}
			if _, err := os.Stat(book.file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the record stays: %v", err)
			}
		})
	}
}

// A start that was cut off between record and change is undone too.
func TestDevicesCutOff(t *testing.T) {
	book, path := bookOf(t, 0o600)
	err := book.edit(func(changes map[string]*change) error {
		changes[path] = &change{Mode: 0o600, Users: []string{"a"}}
		return book.write(changes)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := book.acquire("a"); err != nil || modeOf(t, path) != 0o666 {
		t.Errorf("acquire: %v, mode %04o", err, modeOf(t, path))
	}
	if err := book.release("a"); err != nil || modeOf(t, path) != 0o600 {
		t.Errorf("release: %v, mode %04o", err, modeOf(t, path))
	}
}

func TestDevicesMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a device needs root")
	}
	book, path := bookOf(t, 0o600)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	book.devices[0].major, book.devices[0].minor = 1, 3 // as /dev/null
	if err := book.acquire("a"); err != nil || modeOf(t, path) != 0o666 {
		t.Fatalf("acquire: %v", err)
	}
	if err := book.release("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the device that was made stays: %v", err)
	}
}
