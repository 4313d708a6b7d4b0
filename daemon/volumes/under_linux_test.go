package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestUnderLaysOut(t *testing.T) {
	root := filepath.Join(t.TempDir(), "files", "abc")
	if err := MakeRoot(root); err != nil {
		t.Fatal(err)
	}
	laid, err := Under(root, []Mount{
		{Path: "/srv/app.conf", File: true},
		{Path: "/data/config"},
		{Path: "/data", Live: true},
		{Path: "/etc/app"},
		{Path: "/etc/app/extra", File: true},
		{Path: "/../../outside"},
		{Path: "/run/one", Live: true, File: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range laid {
		dir, err := filepath.Rel(root, m.Dir)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join([]string{m.Path, dir, m.Name}, " "))
		if st, err := os.Stat(m.Dir); err != nil || !st.IsDir() {
			t.Errorf("%s: %v", m.Dir, err)
		}
	}
	want := []string{"/outside outside ", "/data data ", "/etc/app etc/app ", "/etc/app/extra etc/app extra", "/run/one .files/5 ", "/srv/app.conf srv app.conf"}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("laid out as\n%q, want\n%q", got, want)
	}
	if link, err := os.Readlink(filepath.Join(root, "run/one")); err != nil || link != filepath.Join(root, ".files/5/file") {
		t.Errorf("the live file's link is %q, %v", link, err)
	}
	if st, err := os.Stat(root); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the root: %v, %v", st, err)
	}
	if err := MakeRoot(root); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a root that is there: %v", err)
	}
}

// TestPlainVolumes fills and mounts below a directory, and takes it away: in order, and after the death of who had filled it.
func TestPlainVolumes(t *testing.T) {
	if err := CanMount(); err != nil {
		t.Skip("cannot mount here: ", err)
	}
	for _, orderly := range []bool{true, false} {
		t.Run(map[bool]string{true: "in order", false: "after a death"}[orderly], func(t *testing.T) {
			p := newPod(t)
			p.write("data/kept", "the pod's")
			root := filepath.Join(t.TempDir(), "a root", "abc") // mountinfo escapes the blank
			if err := MakeRoot(root); err != nil {
				t.Fatal(err)
			}
			laid, err := Under(root, []Mount{
				{Path: p.at("data"), Live: true},
				{Path: "/etc/app"},
				{Path: "/srv/app.conf", File: true},
				{Path: p.at("data/kept"), Live: true, File: true}, // shown by the first
			})
			if err != nil {
				t.Fatal(err)
			}
			v, err := Start(t.Context(), Config{Files: p.files, Mounts: laid, Trees: func(ctx context.Context, roots []string, got func(*tunnel.Tree)) error {
				got(kubelet("/etc/app", "1", "word", "secret"))
				got(&tunnel.Tree{Root: "/srv/app.conf", Entries: []tunnel.TreeEntry{fileEntry("", "listen = 1", 0o444)}})
				<-ctx.Done()
				return ctx.Err()
			}})
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{
				"etc/app/word": "secret", "srv/app.conf": "listen = 1", strings.TrimPrefix(p.at("data/kept"), "/"): "the pod's",
			} {
				if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
					t.Errorf("%s is %q, %v, want %q", name, b, err, want)
				}
			}
			if err := os.WriteFile(filepath.Join(root, p.at("data/new")), []byte("the process's"), 0o600); err != nil {
				t.Error(err)
			}
			if orderly {
				if err := v.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := Clear(root); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the root is left: %v", err)
			}
			if got := p.read("data/kept"); got != "the pod's" {
				t.Errorf("the pod's file is %q", got)
			}
			if !orderly {
				if err := v.Close(); err != nil {
					t.Logf("close after the file system was taken away: %v", err)
				}
			} else if got := p.read("data/new"); got != "the process's" {
				t.Errorf("what the process wrote is %q", got)
			}
			if err := Clear(root); err != nil {
				t.Errorf("what is gone cannot be cleared: %v", err)
			}
		})
	}
}
