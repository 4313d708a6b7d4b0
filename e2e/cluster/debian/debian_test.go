package debian

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestKey(t *testing.T) {
	release := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(release, []byte("ID=debian\nVERSION_CODENAME=bookworm\nVERSION=\"12 (x)\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := func(s Spec) string {
		k, err := s.key(release)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := key(Spec{Packages: []string{"a", "b"}})
	if got := key(Spec{Packages: []string{"b", "a"}}); got != base {
		t.Errorf("another order: %s, want %s", got, base)
	}
	for name, s := range map[string]Spec{
		"one more":         {Packages: []string{"a", "b", "c"}},
		"one left out":     {Packages: []string{"a", "b"}, Without: []string{"c"}},
		"not a but ab":     {Packages: []string{"ab"}},
		"left out, not in": {Packages: []string{"a"}, Without: []string{"b"}},
	} {
		if got := key(s); got == base {
			t.Errorf("%s: the same key", name)
		}
	}
}

func TestWanted(t *testing.T) {
	const uris = "'http://x/a.deb' liba_1%3a2.0-1+b1_amd64.deb 10 MD5Sum:0\nReading lists\n'http://x/b.deb' b_3_all.deb 10 MD5Sum:0\n"
	got, err := Spec{Without: []string{"b"}}.wanted(uris)
	if want := []string{"liba=1:2.0-1+b1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "nothing\n", "'http://x/c.deb' c.deb 1 x\n"} {
		if got, err := (Spec{}).wanted(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestPlace(t *testing.T) {
	for name, want := range map[string]string{
		"./": "", "./bin/sh": "usr/bin/sh", "./lib/x/y": "usr/lib/x/y", "./lib": "usr/lib", "./usr/bin/git": "usr/bin/git",
		"./library": "library", "../etc/x": "etc/x", "./lib64/ld.so": "usr/lib64/ld.so",
	} {
		if got := place(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestCopy(t *testing.T) {
	from := archiveOf(t,
		&tar.Header{Typeflag: tar.TypeDir, Name: "./bin/", Mode: 0o755},
		&tar.Header{Typeflag: tar.TypeReg, Name: "./bin/dash", Mode: 0o755, Uid: 7},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "./bin/sh", Linkname: "dash", Mode: 0o777},
		&tar.Header{Typeflag: tar.TypeLink, Name: "./bin/ash", Linkname: "./bin/dash", Mode: 0o755},
		&tar.Header{Typeflag: tar.TypeReg, Name: "./usr/share/doc/dash/x", Mode: 0o644},
	)
	var out bytes.Buffer
	tr := &tree{tw: tar.NewWriter(&out), seen: map[string]bool{}}
	if err := tr.base(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time adds nothing
		if err := tr.copy(tar.NewReader(bytes.NewReader(from))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.tw.Close(); err != nil {
		t.Fatal(err)
	}
	entries := map[string]*tar.Header{}
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entries[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		entries[h.Name] = h
	}
	if h := entries["usr/bin/dash"]; h == nil || h.Uid != 0 || h.Mode != 0o755 {
		t.Errorf("usr/bin/dash: %+v", h)
	}
	if h := entries["usr/bin/ash"]; h == nil || h.Linkname != "usr/bin/dash" {
		t.Errorf("usr/bin/ash: %+v", h)
	}
	if h := entries["bin"]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "usr/bin" {
		t.Errorf("bin: %+v", h)
	}
	for name := range entries {
		if strings.Contains(name, "doc") {
			t.Errorf("%s is there", name)
		}
	}
}

func archiveOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
