//go:build unix

package osdns

import (
	"errors"
	"fmt"
	"os"
)

// writeFile writes in place: the content in one system call, then the length. So the file stays the same one, also where it is
// mounted over, and a reader never finds less than one of the two contents.
func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
