package volumes

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// TestPlaces: volumes at paths that the laptop has and has not, below one another, behind links, as files; the laptop's own
// files are where they were, and untouched.
func TestPlaces(t *testing.T) {
	p := newPod(t)
	p.write("top/f", "top")
	p.write("top/nested/f", "nested")
	p.write("one/f", "one")
	p.write("two/f", "two")
	p.write("conf", "live conf")
	laptop := newPod(t)
	laptop.write("there/own", "laptop's")
	laptop.write("there/file", "laptop's")
	laptop.write("real/own", "laptop's")
	laptop.write("plain", "laptop's")
	if err := os.Symlink("real", laptop.at("link")); err != nil {
		t.Fatal(err)
	}
	live := func(path, pod string) place { return liveAt(path, p.at(pod)) }
	readOnly := live("/ro", "one")
	readOnly.ReadOnly = true
	file := live(laptop.at("there/file"), "conf")
	file.File = true
	missingFile := live("/opt/teleswap-test/app/conf", "conf")
	missingFile.File = true
	synced := place{sandbox.Mount{Path: "/teleswap-test/config", ReadOnly: true}, "/teleswap-test/config"}
	p.trees <- kubelet(synced.pod, "1", "key", "value")
	before := laptop.tree()
	out := p.sh([]place{
		live("/teleswap-test/config/live", "two"), synced, // the lower one first
		live("/teleswap-test/a/b", "one"), live("/teleswap-test/a/c", "two"),
		live("/top", "top"), live("/top/nested", "one"),
		live(laptop.at("there/sub"), "one"), file, missingFile,
		live(laptop.at("link/below/deep"), "two"),
		live(laptop.at("plain/dir"), "one"),
		live("/var/run/teleswap-test", "two"), readOnly,
	}, `
		cd `+laptop.dir+`
		for f in /teleswap-test/config/key /teleswap-test/config/live/f /teleswap-test/a/b/f /teleswap-test/a/c/f /top/f /top/nested/f \
			there/sub/f there/own there/file /opt/teleswap-test/app/conf real/below/deep/f real/own plain/dir/f \
			/run/teleswap-test/f /ro/f; do echo "$f: $(cat $f)"; done
		echo new > /top/new; echo new > /top/nested/new; echo new > there/sub/new
		echo changed > there/file
		(echo x > /ro/x) 2>&1 | sed 's/.*: //'
		(echo x > /teleswap-test/config/x) 2>&1 | sed 's/.*: //'
		ls /bin/sh /etc/passwd /proc/self/status > /dev/null
		[ "$PWD" = "$(/bin/pwd)" ]; ls -d /proc/$$/task/$$ > /dev/null
	`)
	want := `/teleswap-test/config/key: value
/teleswap-test/config/live/f: two
/teleswap-test/a/b/f: one
/teleswap-test/a/c/f: two
/top/f: top
/top/nested/f: one
there/sub/f: one
there/own: laptop's
there/file: live conf
/opt/teleswap-test/app/conf: live conf
real/below/deep/f: two
real/own: laptop's
plain/dir/f: one
/run/teleswap-test/f: two
/ro/f: one
Read-only file system
Read-only file system
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if after := laptop.tree(); after != before {
		t.Errorf("the laptop's files were\n%s\nand are\n%s", before, after)
	}
	for name, content := range map[string]string{"top/new": "new\n", "one/new": "new\n", "conf": "changed\n"} {
		if got := p.read(name); got != content {
			t.Errorf("in the pod %s is %q", name, got)
		}
	}
	for _, path := range []string{"/teleswap-test", "/top", "/run/teleswap-test", "/ro", "/opt/teleswap-test"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("the laptop has %s now", path)
		}
	}
}

// tree is all of it as text.
func (p *pod) tree() string {
	p.t.Helper()
	return strings.Join(show(p.t, p.dir), "\n")
}

// TestPlacesRefused: what cannot be covered is said, and the rest works.
func TestPlacesRefused(t *testing.T) {
	p := newPod(t)
	p.write("data/f", "data")
	places := []place{liveAt("/proc", p.at("data")), liveAt("/", p.at("data")), liveAt("relative", p.at("data")), liveAt("/data", p.at("data"))}
	proc := p.run(Config{}, places, "/bin/sh", "-euc", "cat /data/f; ls /proc/self > /dev/null")
	if out, code := proc.wait(); out != "data" || code != 0 {
		t.Errorf("got %q, %d", out, code)
	}
	want := []string{"laptop's own /proc", "laptop's own /", "not absolute", ""}
	for i, problem := range proc.handoff.MountProblems {
		if !strings.Contains(problem, want[i]) || (want[i] == "") != (problem == "") {
			t.Errorf("%s: %q", places[i].Path, problem)
		}
		if (proc.handoff.Mounts[i] == nil) != (problem != "") {
			t.Errorf("%s: has a descriptor: %v", places[i].Path, proc.handoff.Mounts[i] != nil)
		}
	}
}

// TestManyVolumes: more than a few descriptors travel at once.
func TestManyVolumes(t *testing.T) {
	p := newPod(t)
	var places []place
	for i := range 60 {
		name := "/many/" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		places = append(places, place{sandbox.Mount{Path: name}, name})
	}
	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	defer sending.Wait()
	defer stop()
	sending.Go(func() {
		for _, pl := range places {
			select {
			case p.trees <- &tunnel.Tree{Root: pl.pod, Entries: []tunnel.TreeEntry{dirEntry(""), fileEntry("f", pl.pod, 0o644)}}:
			case <-ctx.Done():
				return
			}
		}
	})
	if out := p.sh(places, `cat /many/*/f | wc -c; ls /many | wc -l`); out != "480\n60\n" {
		t.Errorf("got %q", out)
	}
}

// TestBrokenWay: what happens to a live volume whose way to the pod breaks is waited out, up to patience; then it is EIO. A
// killed process does not hang on it.
func TestBrokenWay(t *testing.T) {
	p := newPod(t)
	p.write("data/f", "before")
	script := `
		exec 3< /data/f 4> /data/out; echo one >&4
		echo ready; read go
		cat <&3; echo; echo two >&4; mkdir /data/d; cat /data/out
		echo ready; read go
		if cat /data/other 2>/dev/null; then echo odd; else echo failed; fi
		echo ready; read go
		cat /data/other`
	proc := p.run(Config{Redial: 10 * time.Millisecond, Patience: 500 * time.Millisecond}, []place{liveAt("/data", p.at("data"))}, "/bin/sh", "-euc", script)
	step := func(n int, act func()) {
		eventually(t, "the process is ready", func() bool { return strings.Count(proc.text(), "ready") == n })
		act()
		if _, err := proc.stdin.Write([]byte("go\n")); err != nil {
			t.Fatal(err)
		}
	}
	step(1, func() { p.cut(false) })
	p.write("data/other", "after")
	step(2, func() { p.cut(true) })
	step(3, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.down = false
	})
	out, code := proc.wait()
	if want := "ready\nbefore\none\ntwo\nready\nfailed\nready\nafter"; out != want || code != 0 {
		t.Errorf("got %q, %d", out, code)
	}
}

// TestKilledWhileThePodIsSilent: a process that waits for a pod which does not answer can be killed.
func TestKilledWhileThePodIsSilent(t *testing.T) {
	p := newPod(t)
	p.mkdir("data")
	if err := os.WriteFile(p.at("data/f"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	proc := p.run(Config{}, []place{liveAt("/data", p.at("data"))}, "/bin/sh", "-euc", "echo ready; read go; echo went; exec cat /data/f")
	eventually(t, "the process is ready", func() bool { return strings.Contains(proc.text(), "ready") })
	p.mu.Lock()
	p.silent = true
	p.mu.Unlock()
	p.cut(false)
	if _, err := proc.stdin.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is asked", func() bool { return p.asked.Load() > 0 })
	began := time.Now()
	proc.end()
	proc.over = true
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
