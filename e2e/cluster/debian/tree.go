package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
)

// tree writes one tar out of the packages' own.
type tree struct {
	tw   *tar.Writer
	seen map[string]bool
}

// writeTree merges the archives' files into one tar.
func writeTree(ctx context.Context, file string, archives []string) error {
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	defer func() { _ = out.Close() }() // a second time, after a good one: no matter
	t := &tree{tw: tar.NewWriter(out), seen: map[string]bool{}}
	if err := t.base(); err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	for _, archive := range archives {
		if err := t.archive(ctx, archive); err != nil {
			return fmt.Errorf("debian: %s: %w", path.Base(archive), err)
		}
	}
	if err := errors.Join(t.tw.Close(), out.Close()); err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	return nil
}

// Ordinary is the user that the tree knows beside root: uid and gid 65532, home /tmp.
const Ordinary = "nonroot"

// base is what on a Debian system belongs to no package, or is made by a script: the merged
// /usr, and two users.
func (t *tree) base() error {
	for _, dir := range []string{"usr", "etc"} {
		if err := t.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, dir := range mergedDirs() {
		if err := t.header(&tar.Header{Typeflag: tar.TypeDir, Name: "usr/" + dir + "/", Mode: 0o755}); err != nil {
			return err
		}
		if err := t.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: dir, Linkname: "usr/" + dir, Mode: 0o777}); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, content string }{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n" + Ordinary + ":x:65532:65532::/tmp:/bin/sh\n"},
		{"etc/group", "root:x:0:\n" + Ordinary + ":x:65532:\n"},
		{"etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"},
	} {
		if err := t.header(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return err
		}
		if _, err := io.WriteString(t.tw, f.content); err != nil {
			return err
		}
	}
	return nil
}

func mergedDirs() []string { return []string{"bin", "sbin", "lib", "lib64"} }

func (t *tree) header(h *tar.Header) error {
	h.Format = tar.FormatPAX
	t.seen[strings.TrimSuffix(h.Name, "/")] = true
	return t.tw.WriteHeader(h)
}

func (t *tree) archive(ctx context.Context, file string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	copyErr := t.copy(tar.NewReader(out))
	_, _ = io.Copy(io.Discard, out) // dpkg-deb must not be stopped by a full pipe
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, errs.String())
	}
	return copyErr
}

// copy takes over a package's files, each at its place in a system with a merged /usr. Who owns
// them is left out: in an image made for an ordinary user it is root.
func (t *tree) copy(from *tar.Reader) error {
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := place(h.Name)
		if name == "" || unneeded(name) || t.seen[name] {
			continue
		}
		to := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Mode: h.Mode, Size: h.Size}
		switch h.Typeflag {
		case tar.TypeDir:
			to.Name += "/"
		case tar.TypeLink:
			to.Linkname = place(h.Linkname)
		case tar.TypeReg, tar.TypeSymlink:
		default:
			return fmt.Errorf("%s: a file of type %q", h.Name, h.Typeflag)
		}
		if err := t.header(to); err != nil {
			return err
		}
		if _, err := io.Copy(t.tw, from); err != nil {
			return err
		}
	}
}

// place is where a package's file lies when /bin, /sbin and /lib are links into /usr.
func place(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	for _, dir := range mergedDirs() {
		if first == dir {
			return "usr/" + name
		}
	}
	return name
}

// unneeded are files that no server reads and that would be half of the image.
func unneeded(name string) bool {
	for _, dir := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/i18n"} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return strings.HasPrefix(name, "usr/lib/postgresql/") && (strings.Contains(name, "/bitcode") || strings.HasSuffix(name, "/llvmjit.so"))
}
