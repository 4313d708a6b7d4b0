//go:build linux

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	a, b := namesFor("/home/dev/teleswap"), namesFor("/home/dev/teleswap2")
	if again := namesFor("/home/dev/teleswap"); again != a {
		t.Errorf("same clone: got %+v, want %+v", again, a)
	}
	for name, pair := range map[string][2]string{
		"node's namespace": {a.Node.Name, b.Node.Name}, "laptop's namespace": {a.Laptop.Name, b.Laptop.Name},
		"cgroup": {a.Cgroup, b.Cgroup}, "home": {a.Home, b.Home}, "kubeconfig": {a.Kubeconfig(), b.Kubeconfig()},
	} {
		if pair[0] == pair[1] {
			t.Errorf("two clones have the same %s: %s", name, pair[0])
		}
	}
	if len(a.ID) != 8 || a.Node.Name != "tsw-"+a.ID+"-node" || a.Laptop.Name != "tsw-"+a.ID+"-laptop" {
		t.Errorf("names: got %+v", a)
	}
	if a.WantPort < 20000 || a.WantPort >= 30000 {
		t.Errorf("port %d is not in 20000–29999", a.WantPort)
	}
}

func TestAnother(t *testing.T) {
	n := namesFor("/home/me/teleswap")
	other, err := n.Another("second")
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"id": {n.ID, other.ID}, "state": {n.State, other.State}, "kubeconfig": {n.Kubeconfig(), other.Kubeconfig()}, "cgroup": {n.Cgroup, other.Cgroup},
		"node": {n.Node.Name, other.Node.Name}, "laptop": {n.Laptop.File, other.Laptop.File}, "record": {n.record(), other.record()},
	} {
		if pair[0] == pair[1] {
			t.Errorf("%s: both have %q", what, pair[0])
		}
	}
	if other.Clone != n.Clone {
		t.Errorf("clone %q, want %q", other.Clone, n.Clone)
	}
	if _, err := n.Another("../x"); err == nil {
		t.Error("a name with a path in it is taken")
	}
}

// TestDownTakesTheOthers: whoever takes the clone's cluster away need not know what else a killed run has left.
func TestDownTakesTheOthers(t *testing.T) {
	if err := Preflight(); err != nil {
		t.Skip(err)
	}
	n, err := NewNames(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other, err := n.Another("second")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(other.Home, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other.Home) })
	r := Record{Clone: other.Clone, Name: other.Name, Phase: phaseStarting, BootID: bootID()}
	if err := r.save(other.record()); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), n, discard()); err != nil {
		t.Fatal(err)
	}
	if there, err := other.traces(); err != nil || there {
		t.Errorf("the second cluster's traces are left (%v)", err)
	}
}

func TestNewNamesFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	direct, err := NewNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	if linked, err := NewNames(link); err != nil || linked != direct {
		t.Errorf("by a link: got %+v, %v, want %+v", linked, err, direct)
	}
}

func TestFindClone(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "e2e", "cluster", "parts", "kubernetes")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := FindClone(deep); err != nil || got != root {
		t.Errorf("from below: got %s, %v, want %s", got, err, root)
	}
	if got, err := FindClone(t.TempDir()); err == nil {
		t.Errorf("from elsewhere: got %s, want an error", got)
	}
}

func TestRecord(t *testing.T) {
	name := filepath.Join(t.TempDir(), "record.json")
	if r, err := loadRecord(name); r != nil || err != nil {
		t.Errorf("no record: got %+v, %v", r, err)
	}
	want := Record{Clone: "/x", Phase: phaseUp, Build: "k", BootID: "b", Node: Process{PID: 7, Start: 9}, HostPort: 21000}
	if err := want.save(name); err != nil {
		t.Fatal(err)
	}
	if r, err := loadRecord(name); err != nil || !reflect.DeepEqual(*r, want) {
		t.Errorf("got %+v, %v, want %+v", r, err, want)
	}
	if err := os.WriteFile(name, []byte(`{"phase":"up","no`), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := loadRecord(name); err != nil || r.Phase != phaseStarting {
		t.Errorf("a damaged record: got %+v, %v, want a half-made cluster", r, err)
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := NewProcess(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("got %+v, %v, alive=%v", p, err, p.Alive())
	}
	// Another process has the id by now: it must not be touched.
	other := Process{PID: p.PID, Start: p.Start + 1}
	if other.Alive() {
		t.Error("a process that started at another time passes for this one")
	}
	if err := other.Kill(time.Second); err != nil || !p.Alive() {
		t.Errorf("kill of another: %v, alive=%v", err, p.Alive())
	}
	if err := p.Kill(10 * time.Second); err != nil || p.Alive() {
		t.Errorf("kill: %v, alive=%v", err, p.Alive())
	}
	_ = cmd.Wait() // says only that it was killed
	if err := p.Kill(time.Second); err != nil {
		t.Errorf("kill of one that is gone: %v", err)
	}
	if (Process{}).Alive() {
		t.Error("no process is alive")
	}
}

func TestParseStat(t *testing.T) {
	const fields = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20"
	for _, tt := range []struct {
		name, in string
		want     uint64
		parent   int
		bad      bool
	}{
		{"plain", "7 (sleep) S" + fields, 4242, 1, false},
		{"a name with parentheses and spaces", "7 (a) S 9 (b) R" + fields, 4242, 1, false},
		{"a zombie is gone", "7 (sleep) Z" + fields, 0, 1, true},
		{"short", "7 (sleep) S 1 2", 0, 1, true},
		{"nothing", "", 0, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.in))
			if (err != nil) != tt.bad || got != tt.want {
				t.Errorf("start: got %d, %v, want %d", got, err, tt.want)
			}
			if got := parentOf([]byte(tt.in)); got != tt.parent {
				t.Errorf("parent: got %d, want %d", got, tt.parent)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sleep) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseStat(data); err == nil && !strings.Contains(string(data), ")") {
			t.Errorf("took %q", data)
		}
		parentOf(data)
	})
}

func TestMissingTools(t *testing.T) {
	have := func(names ...string) func(string) (string, error) {
		return func(name string) (string, error) {
			if slices.Contains(names, name) {
				return "/usr/sbin/" + name, nil
			}
			return "", exec.ErrNotFound
		}
	}
	if err := missingTools(have("runc", "ip", "nft")); err != nil {
		t.Errorf("all there: got %v", err)
	}
	err := missingTools(have("ip"))
	if err == nil || !strings.Contains(err.Error(), "runc, nft") || !strings.Contains(err.Error(), "apt-get install -y runc nftables") {
		t.Errorf("got %v, want what is missing and the line that installs it", err)
	}
}

func TestLockIsExclusive(t *testing.T) {
	n := namesFor(t.TempDir())
	unlock, err := n.lock(t.Context(), discard())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := n.lock(t.Context(), discard())
		if err == nil {
			second()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("a second run got the lock (%v)", err)
	case <-time.After(150 * time.Millisecond):
	}
	unlock()
	if err := <-got; err != nil {
		t.Errorf("after the first: %v", err)
	}
}

func TestAncestors(t *testing.T) {
	line := ancestors()
	if !line[os.Getpid()] || !line[syscall.Getppid()] && syscall.Getppid() > 1 {
		t.Errorf("got %v, want %d and %d in it", line, os.Getpid(), syscall.Getppid())
	}
}
