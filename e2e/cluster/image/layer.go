package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// layer writes one tar and remembers which folders it has, so that each is
// written once and before what lies in it.
type layer struct {
	tw   *tar.Writer
	dirs map[string]bool
}

func writeLayer(w io.Writer, spec *Spec) error {
	l := &layer{tw: tar.NewWriter(w), dirs: map[string]bool{}}
	if spec.RootFS != "" {
		if err := l.rootFS(spec.RootFS); err != nil {
			return err
		}
	}
	for _, f := range spec.Files {
		if err := l.file(f); err != nil {
			return err
		}
	}
	// Programs expect a /tmp that they may write to, whoever they run as.
	if err := l.dir("tmp", 0o1777); err != nil {
		return err
	}
	return l.tw.Close()
}

// inside turns a path of the image into a tar entry's name: relative, clean,
// and never above the root.
func inside(p string) string {
	return strings.TrimPrefix(path.Clean("/"+p), "/")
}

func (l *layer) dir(name string, mode int64) error {
	if name == "" || name == "." || l.dirs[name] {
		return nil
	}
	if err := l.dir(parent(name), 0o755); err != nil {
		return err
	}
	l.dirs[name] = true
	return l.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Format: tar.FormatPAX})
}

func parent(name string) string {
	d := path.Dir(name)
	if d == "." {
		return ""
	}
	return d
}

func (l *layer) file(f File) error {
	info, err := os.Stat(f.Source)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", f.Source)
	}
	mode := f.Mode
	if mode == 0 {
		mode = info.Mode().Perm()
	}
	name := inside(f.Target)
	if err := l.dir(parent(name), 0o755); err != nil {
		return err
	}
	return l.regular(f.Source, name, int64(mode.Perm()), info.Size())
}

func (l *layer) regular(source, name string, mode, size int64) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := l.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.Copy(l.tw, in); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return nil
}

// rootFS lays down a folder's tree or a tar's entries.
func (l *layer) rootFS(source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return l.tree(source)
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := l.copyTar(tar.NewReader(in)); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return nil
}

func (l *layer) copyTar(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := inside(h.Name)
		if name == "" {
			continue
		}
		if h.Typeflag == tar.TypeDir {
			if err := l.dir(name, h.Mode); err != nil {
				return err
			}
			continue
		}
		if err := l.dir(parent(name), 0o755); err != nil {
			return err
		}
		h.Name = name
		if err := l.tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(l.tw, tr); err != nil {
			return err
		}
	}
}

func (l *layer) tree(root string) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		name := inside(filepath.ToSlash(rel))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return l.dir(name, int64(tarMode(info.Mode())))
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return l.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: link, Mode: 0o777, Format: tar.FormatPAX})
		case info.Mode().IsRegular():
			return l.regular(p, name, int64(tarMode(info.Mode())), info.Size())
		default:
			return nil // sockets, devices and pipes have no place in a test image
		}
	})
}

// tarMode gives the permission bits with setuid, setgid and sticky where tar
// has them.
func tarMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
