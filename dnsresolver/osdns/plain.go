package osdns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// headline is the first line of a resolv.conf that we wrote.
const headline = "# Teleswap is connected: cluster names. `teleswap disconnect` puts the former file back.\n"

// options bound, by a second instead of five, how long the C library waits for an answer that whoever was killed had still to give.
const options = "options timeout:1"

// planPlain finds out what resolv.conf is and will be.
func planPlain(fx Effects, c Change) (Undo, error) {
	before, err := fx.ReadFile(fx.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return Undo{}, fmt.Errorf("read the resolver's settings: %w", err)
	}
	f := FileUndo{Path: fx.Path, Missing: missing, Before: before, After: plainConf(c, before)}
	return Undo{Way: Plain, Files: []FileUndo{f}}, nil
}

// planFiles finds out what files of ours there are already: none, but for those of somebody who used the same name.
func planFiles(fx Effects, c Change, files map[string][]byte) (Undo, error) {
	u := Undo{Way: c.Way}
	for _, path := range slices.Sorted(keys(files)) {
		before, err := fx.ReadFile(path)
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return Undo{}, fmt.Errorf("read the resolver's settings: %w", err)
		}
		u.Files = append(u.Files, FileUndo{Path: path, Missing: missing, Before: before, After: files[path]})
	}
	return u, nil
}

func keys(m map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// plainConf is a resolv.conf (resolv.conf(5)) that asks us first, then those who were asked before. The C library takes the last
// search line, so ours comes last, with the former domains behind the cluster's. It must not turn its servers over either: only
// ours knows the cluster's names.
func plainConf(c Change, before []byte) []byte {
	var b bytes.Buffer
	b.WriteString(headline)
	fmt.Fprintf(&b, "nameserver %v\n", c.Server)
	var formerSearch []string
	for line := range bytes.Lines(before) {
		fields := strings.Fields(string(line))
		switch {
		case len(fields) > 1 && (fields[0] == "search" || fields[0] == "domain"):
			formerSearch = fields[1:]
			if fields[0] == "domain" {
				formerSearch = fields[1:2]
			}
		case len(fields) > 1 && fields[0] == "options" && slices.Contains(fields, "rotate"):
			fields = slices.DeleteFunc(fields, func(o string) bool { return o == "rotate" })
			if len(fields) > 1 {
				b.WriteString(strings.Join(fields, " ") + "\n")
			}
			continue
		}
		b.Write(line)
	}
	if n := b.Len(); b.Bytes()[n-1] != '\n' {
		b.WriteByte('\n')
	}
	if len(nameservers(before)) == 0 {
		b.WriteString("nameserver 127.0.0.1\n") // whom the C library asks where there is none
	}
	search := slices.Clone(c.Search)
	for _, d := range formerSearch {
		if !slices.Contains(search, d) {
			search = append(search, d)
		}
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	b.WriteString(options + "\n")
	return b.Bytes()
}

// revert gives the file its content from before, if what it has is ours.
func (f FileUndo) revert(fx Effects) error {
	now, err := fx.ReadFile(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.Missing:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil // somebody else removed it, and knows why
	case err != nil:
		return err
	case bytes.Equal(now, f.Before) && !f.Missing:
		return nil
	case !f.ours(now):
		return f.forget(fx, now)
	case f.Missing:
		return fx.Remove(f.Path)
	}
	return fx.WriteFile(f.Path, f.Before)
}

// ours says whether content is what we wrote, or what is there when we are killed while we put the former content back: that is
// written first, then the file gets its length.
func (f FileUndo) ours(content []byte) bool {
	half := len(f.Before) < len(f.After) && bytes.Equal(content, append(slices.Clip(slices.Clone(f.Before)), f.After[len(f.Before):]...))
	return bytes.Equal(content, f.After) || half || f.Missing && len(content) == 0
}

// forget takes our lines out of a file that somebody else has written since.
func (f FileUndo) forget(fx Effects, now []byte) error {
	mine := strings.Split(string(f.After), "\n")
	if len(mine) < 2 || mine[0]+"\n" != headline {
		return nil
	}
	var rest bytes.Buffer
	for line := range bytes.Lines(now) {
		if text := strings.TrimRight(string(line), "\r\n"); text != mine[0] && text != mine[1] {
			rest.Write(line)
		}
	}
	if rest.Len() == len(now) {
		return nil
	}
	return fx.WriteFile(f.Path, rest.Bytes())
}
