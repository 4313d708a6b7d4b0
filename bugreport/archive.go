// Package bugreport writes the archive that goes with a report of a bug: texts, in which every secret is left out before they are
// written. It knows nothing of what the texts are about.
package bugreport

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Archive is a .tar.gz file under way. It is not safe for concurrent use.
type Archive struct {
	scrub   *Scrubber
	dir     string // in which all files are, in the archive
	now     time.Time
	zipped  *gzip.Writer
	tar     *tar.Writer
	entries []Entry
}

// Entry is a file of an archive.
type Entry struct {
	Name  string
	Bytes int
	About string
}

// New begins an archive, whose files are in a folder of the name. Close it; w stays open.
func New(w io.Writer, dir string, scrub *Scrubber, now time.Time) *Archive {
	zipped := gzip.NewWriter(w)
	return &Archive{scrub: scrub, dir: dir, now: now, zipped: zipped, tar: tar.NewWriter(zipped)}
}

// Add writes a file: the text without its secrets. about says what it is.
func (a *Archive) Add(name, about string, text []byte) error {
	clean := a.scrub.Text(strings.ToValidUTF8(string(text), "\uFFFD"))
	header := &tar.Header{Name: path.Join(a.dir, name), Mode: 0o600, Size: int64(len(clean)), ModTime: a.now, Typeflag: tar.TypeReg}
	if err := a.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := io.WriteString(a.tar, clean); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	a.entries = append(a.entries, Entry{name, len(clean), about})
	return nil
}

// Entries are the files so far.
func (a *Archive) Entries() []Entry { return a.entries }

// Close ends the archive.
func (a *Archive) Close() error { return errors.Join(a.tar.Close(), a.zipped.Close()) }
