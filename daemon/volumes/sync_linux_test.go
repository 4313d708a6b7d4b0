package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

func dirEntry(path string) tunnel.TreeEntry {
	return tunnel.TreeEntry{Path: path, Mode: unix.S_IFDIR | 0o755}
}

func fileEntry(path, content string, mode uint32) tunnel.TreeEntry {
	return tunnel.TreeEntry{Path: path, Mode: unix.S_IFREG | mode, Content: []byte(content)}
}

func linkEntry(path, to string) tunnel.TreeEntry {
	return tunnel.TreeEntry{Path: path, Mode: unix.S_IFLNK | 0o777, Link: to}
}

// kubelet is a volume as the kubelet writes it: key and value, and the name of its timestamped directory.
func kubelet(root, stamp string, keys ...string) *tunnel.Tree {
	dir := ".." + stamp
	t := &tunnel.Tree{Root: root, Entries: []tunnel.TreeEntry{
		{Mode: unix.S_IFDIR | unix.S_ISVTX | 0o777}, dirEntry(dir), linkEntry("..data", dir),
	}}
	for i := 0; i < len(keys); i += 2 {
		t.Entries = append(t.Entries, fileEntry(dir+"/"+keys[i], keys[i+1], 0o640), linkEntry(keys[i], "..data/"+keys[i]))
	}
	return t
}

// newTarget is a synced volume in a plain directory.
func newTarget(t *testing.T, file bool, others ...string) (*target, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := Mount{Path: "/etc/app", File: file, Handle: f}
	all := []Mount{m}
	for _, o := range others {
		all = append(all, Mount{Path: o})
	}
	tg, err := openTarget(m, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tg.root.Close()
		_ = f.Close()
	})
	return tg, dir
}

// show lists a directory: names with modes, links and contents.
func show(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		st, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out = append(out, name+"/")
		case st.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			out = append(out, name+" -> "+to)
		default:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s %o %q", name, st.Mode().Perm(), b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSyncFollowsKubelet(t *testing.T) {
	tg, dir := newTarget(t, false)
	for _, step := range []struct {
		name string
		tree *tunnel.Tree
		want []string
	}{
		{"first", kubelet("/etc/app", "1", "a", "one", "b", "two"), []string{
			"..1/", `..1/a 640 "one"`, `..1/b 640 "two"`, "..data -> ..1", "a -> ..data/a", "b -> ..data/b",
		}},
		{"the same again", kubelet("/etc/app", "1", "a", "one", "b", "two"), []string{
			"..1/", `..1/a 640 "one"`, `..1/b 640 "two"`, "..data -> ..1", "a -> ..data/a", "b -> ..data/b",
		}},
		{"changed", kubelet("/etc/app", "2", "a", "uno", "c", "three"), []string{
			"..2/", `..2/a 640 "uno"`, `..2/c 640 "three"`, "..data -> ..2", "a -> ..data/a", "c -> ..data/c",
		}},
		{"empty", kubelet("/etc/app", "3"), []string{"..3/", "..data -> ..3"}},
		{"not of the kubelet", &tunnel.Tree{Entries: []tunnel.TreeEntry{
			dirEntry(""), dirEntry("d"), fileEntry("d/f", "x", 0o600), linkEntry("l", "d/f"),
		}}, []string{"d/", `d/f 600 "x"`, "l -> d/f"}},
		{"replaced in place", &tunnel.Tree{Entries: []tunnel.TreeEntry{
			dirEntry(""), dirEntry("d"), fileEntry("d/f", "y", 0o644), linkEntry("l", "d"),
		}}, []string{"d/", `d/f 644 "y"`, "l -> d"}},
		{"other kinds", &tunnel.Tree{Entries: []tunnel.TreeEntry{
			dirEntry(""), fileEntry("d", "was a directory", 0o444), dirEntry("l"),
		}}, []string{`d 444 "was a directory"`, "l/"}},
	} {
		if err := tg.update(step.tree); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := show(t, dir); !slices.Equal(got, step.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", step.name, got, step.want)
		}
	}
}

// TestSyncRefuses: what an agent names cannot leave the volume, and what is wrong changes nothing.
func TestSyncRefuses(t *testing.T) {
	tg, dir := newTarget(t, false)
	outside := filepath.Join(t.TempDir(), "outside")
	for name, tree := range map[string]*tunnel.Tree{
		"a parent":      {Entries: []tunnel.TreeEntry{dirEntry(""), fileEntry("../x", "", 0o644)}},
		"absolute":      {Entries: []tunnel.TreeEntry{dirEntry(""), fileEntry("/x", "", 0o644)}},
		"through links": {Entries: []tunnel.TreeEntry{dirEntry(""), dirEntry("s"), linkEntry("l", filepath.Dir(outside)), fileEntry("l/outside", "", 0o644)}},
		"an error":      {Error: "permission denied"},
		"a file":        {Entries: []tunnel.TreeEntry{fileEntry("", "", 0o644)}},
	} {
		if err := tg.update(tree); err == nil {
			t.Errorf("%s: no error; %q", name, show(t, dir))
		}
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("it wrote outside")
	}
}

// TestSyncLeavesOtherMounts: another mount in a synced volume is not the volume's.
func TestSyncLeavesOtherMounts(t *testing.T) {
	tg, dir := newTarget(t, false, "/etc/app/sub", "/etc/apple")
	if err := os.MkdirAll(filepath.Join(dir, "sub/theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tree := range []*tunnel.Tree{
		{Entries: []tunnel.TreeEntry{dirEntry(""), dirEntry("sub"), fileEntry("sub/x", "", 0o644), fileEntry("subway", "", 0o644)}},
		{Entries: []tunnel.TreeEntry{dirEntry("")}},
	} {
		if err := tg.update(tree); err != nil {
			t.Fatal(err)
		}
	}
	if got := show(t, dir); !slices.Equal(got, []string{"sub/", "sub/theirs/"}) {
		t.Errorf("got %q", got)
	}
}

func TestSyncFile(t *testing.T) {
	tg, dir := newTarget(t, true)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(filepath.Join(dir, "file"))
	if err := tg.update(&tunnel.Tree{Entries: []tunnel.TreeEntry{fileEntry("", "content", 0o440)}}); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced: %v", err)
	}
	if got := show(t, dir); !slices.Equal(got, []string{`file 440 "content"`}) {
		t.Errorf("got %q", got)
	}
	if err := tg.update(&tunnel.Tree{Entries: []tunnel.TreeEntry{dirEntry("")}}); err == nil {
		t.Error("a directory in its place is no error")
	}
}

// TestSyncIsAtomic: a reader sees one version or the other, whole.
func TestSyncIsAtomic(t *testing.T) {
	tg, dir := newTarget(t, false)
	version := func(n int) *tunnel.Tree {
		return kubelet("/etc/app", fmt.Sprint("v", n), "a", fmt.Sprint(n), "b", fmt.Sprint(n))
	}
	if err := tg.update(version(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// As a program that wants both of one version does it.
			data, err := os.OpenRoot(filepath.Join(dir, "..data"))
			if errors.Is(err, fs.ErrNotExist) {
				// Between reading the link and opening what it named, that was replaced and removed: as with the
				// kubelet. The link itself is never away.
				_, err = os.Readlink(filepath.Join(dir, "..data"))
				if err == nil {
					continue
				}
			}
			if err != nil {
				t.Errorf("..data is away: %v", err)
				return
			}
			a, errA := data.ReadFile("a")
			b, errB := data.ReadFile("b")
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("half and half: %q and %q", a, b)
			}
			_ = data.Close()
		}
	})
	for n := range 200 {
		if err := tg.update(version(n + 1)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reading.Wait()
}

// TestSyncedVolume: the process reads what the pod has when it starts, cannot write it, and sees a change as an inotify
// watcher and as a reader.
func TestSyncedVolume(t *testing.T) {
	p := newPod(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := "/var/run/secrets/kubernetes.io/serviceaccount"
	p.trees <- kubelet(root, "1", "token", "first")
	p.trees <- &tunnel.Tree{Root: "/etc/app.conf", Entries: []tunnel.TreeEntry{fileEntry("", "conf", 0o400)}}
	proc := p.run(Config{}, []place{
		{sandbox.Mount{Path: root, ReadOnly: true}, root},
		{sandbox.Mount{Path: "/etc/app.conf", ReadOnly: true, File: true}, "/etc/app.conf"},
	}, exe, childArg, "secret", root, "/etc/app.conf")
	eventually(t, "the process watches", func() bool { return strings.Contains(proc.text(), "watching") })
	p.trees <- nil // the tunnel breaks, and is dialled again
	p.trees <- kubelet(root, "2", "token", "second")
	out, code := proc.wait()
	for _, want := range []string{
		"/var/run/secrets/kubernetes.io/serviceaccount/token first", "/etc/app.conf conf", "-r--------", "write: read-only file system",
		"create: read-only file system", "MOVED_TO ..data", "now second",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if code != 0 {
		t.Errorf("exit %d", code)
	}
}
