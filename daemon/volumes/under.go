package volumes

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// filesDir is where live volumes that are single files are mounted, below a root; links lead to them.
const filesDir = ".files"

// Under lays volumes out below a directory of the laptop, which must be there: each is to be at root and its path. It makes
// the directories that are needed, and returns what Start takes. A volume in a live one is left out: that one shows it, as
// the pod's own mounts are in it.
func Under(root string, mounts []Mount) ([]Mount, error) {
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b Mount) int { return strings.Compare(a.Path, b.Path) })
	var laid []Mount
	var shown []string
	for i, m := range sorted {
		m.Path = path.Clean("/" + m.Path)
		if slices.ContainsFunc(shown, func(live string) bool {
			return m.Path == live || strings.HasPrefix(m.Path, strings.TrimSuffix(live, "/")+"/")
		}) {
			continue
		}
		at := filepath.Join(root, filepath.FromSlash(m.Path))
		m.Dir = at
		switch {
		case m.Live && m.File:
			m.Dir = filepath.Join(root, filesDir, strconv.Itoa(i))
		case m.File:
			m.Dir, m.Name = filepath.Split(at)
		}
		err := os.MkdirAll(m.Dir, 0o700)
		if m.Live && m.File && err == nil {
			if err = os.MkdirAll(filepath.Dir(at), 0o700); err == nil {
				err = os.Symlink(filepath.Join(m.Dir, fileName), at)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("make a place for the pod's %s: %w", m.Path, err)
		}
		if m.Live {
			shown = append(shown, m.Path)
		}
		laid = append(laid, m)
	}
	return laid, nil
}

// MakeRoot makes a directory to lay volumes out under, for this user alone.
func MakeRoot(root string) error {
	if err := os.MkdirAll(filepath.Dir(root), 0o700); err != nil {
		return fmt.Errorf("make a place for the pod's files: %w", err)
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		return fmt.Errorf("make a place for the pod's files: %w", err)
	}
	return nil
}

// Clear removes a directory that volumes were laid out under, whatever has become of who had filled it. What is mounted there
// is unmounted first, and never removed; where it stays, all stays.
func Clear(root string) error {
	if _, err := os.Lstat(root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(root); err != nil {
		return err
	}
	// The pod's modes may keep even their owner out.
	_ = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() && err != nil {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(root)
}
