//go:build linux

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// device is a node in /dev that an ordinary user of the laptop needs, with the
// mode that distributions give it.
type device struct {
	path         string
	major, minor uint32
}

// Kernel: Documentation/admin-guide/devices.txt, character devices of major 10.
func devices() []device {
	return []device{{"/dev/net/tun", 10, 200}, {"/dev/fuse", 10, 229}}
}

const deviceMode = 0o666

// change is how a device was before the first cluster changed it.
type change struct {
	Created bool     `json:"created,omitempty"`
	Mode    uint32   `json:"mode"`  // permission bits before
	Users   []string `json:"users"` // clusters that rely on the change; the last one undoes it
}

// deviceBook is the record of such changes. It is one for the machine: clusters
// of several clones share the devices.
type deviceBook struct {
	file    string
	devices []device
	known   func(id string) bool // whether there is still a cluster of that id
	logger  *slog.Logger
}

func newDeviceBook(logger *slog.Logger) *deviceBook {
	return &deviceBook{
		file:    filepath.Join(machineRoot, "devices.json"),
		devices: devices(),
		known: func(id string) bool {
			_, err := os.Stat(filepath.Join(machineRoot, id))
			return err == nil
		},
		logger: logger,
	}
}

// acquire opens the devices to ordinary users for the cluster with this id.
func (b *deviceBook) acquire(id string) error {
	return b.edit(func(changes map[string]*change) error {
		for _, d := range b.devices {
			if err := b.open(d, id, changes); err != nil {
				return fmt.Errorf("open %s to ordinary users: %w", d.path, err)
			}
		}
		return nil
	})
}

func (b *deviceBook) open(d device, id string, changes map[string]*change) error {
	if c := changes[d.path]; c != nil {
		if !slices.Contains(c.Users, id) {
			c.Users = append(c.Users, id)
		}
	}
	info, err := os.Stat(d.path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !missing:
		return err
	case !missing && info.Mode().Perm()&deviceMode == deviceMode:
		return b.write(changes)
	}
	if changes[d.path] == nil {
		c := &change{Created: missing, Users: []string{id}}
		if !missing {
			c.Mode = uint32(info.Mode().Perm())
		}
		changes[d.path] = c
	}
	if err := b.write(changes); err != nil { // before the change itself
		return err
	}
	if missing {
		b.logger.Info("making a device that this machine lacks; cluster-down removes it", "device", d.path)
		if err := os.MkdirAll(filepath.Dir(d.path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(d.path, unix.S_IFCHR|deviceMode, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return err
		}
	} else {
		b.logger.Info("opening a device to ordinary users, as distributions do; cluster-down restores it",
			"device", d.path, "was", fmt.Sprintf("%04o", changes[d.path].Mode))
	}
	return os.Chmod(d.path, deviceMode)
}

// release undoes the changes that no other cluster relies on.
func (b *deviceBook) release(id string) error {
	return b.edit(func(changes map[string]*change) error {
		for path, c := range changes {
			c.Users = slices.DeleteFunc(c.Users, func(user string) bool { return user == id || !b.known(user) })
			if len(c.Users) > 0 {
				continue
			}
			var err error
			if c.Created {
				err = os.Remove(path)
			} else {
				err = os.Chmod(path, os.FileMode(c.Mode))
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("restore %s: %w", path, err)
			}
			delete(changes, path)
		}
		return b.write(changes)
	})
}

// edit runs f on the book, alone on this machine.
func (b *deviceBook) edit(f func(map[string]*change) error) error {
	if err := os.MkdirAll(filepath.Dir(b.file), 0o755); err != nil {
		return fmt.Errorf("record of devices: %w", err)
	}
	dir, err := os.Open(filepath.Dir(b.file))
	if err != nil {
		return fmt.Errorf("record of devices: %w", err)
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the record of devices: %w", err)
	}
	changes := map[string]*change{}
	data, err := os.ReadFile(b.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("record of devices: %w", err)
	default:
		if err := json.Unmarshal(data, &changes); err != nil {
			return fmt.Errorf("record of devices %s: %w", b.file, err)
		}
	}
	return f(changes)
}

func (b *deviceBook) write(changes map[string]*change) error {
	if len(changes) == 0 {
		if err := os.Remove(b.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("record of devices: %w", err)
		}
		return nil
	}
	data, err := json.MarshalIndent(changes, "", "  ")
	if err != nil {
		return fmt.Errorf("record of devices: %w", err)
	}
	if err := writeAtomic(b.file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("record of devices: %w", err)
	}
	return nil
}
