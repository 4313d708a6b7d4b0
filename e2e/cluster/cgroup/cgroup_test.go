//go:build linux

package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const hybrid = `22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:9 master:1 - cgroup cgroup rw,cpuset
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/my\040tree rw - cgroup2 cgroup2 rw,nsdelegate
42 31 0:38 / /sys/fs/cgroup/my\040tree rw - cgroup2 cgroup2 rw,nsdelegate
`

func TestParseMountInfo(t *testing.T) {
	got, err := parseMountInfo(strings.NewReader(hybrid))
	if err != nil {
		t.Fatal(err)
	}
	want := []Hierarchy{
		{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
		{Mount: "/sys/fs/cgroup/cpuset", Controllers: []string{"cpuset"}},
		{Mount: "/sys/fs/cgroup/systemd", Controllers: []string{"name=systemd"}},
		{Mount: "/sys/fs/cgroup/my tree", V2: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzParseMountInfo(f *testing.F) {
	f.Add(hybrid)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseMountInfo(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, h := range got {
			if h.Mount == "" || h.V2 && h.Controllers != nil {
				t.Errorf("got %+v", h)
			}
		}
	})
}

// all plays a v1 hierarchy that has every controller that is asked for.
func all(mount string) []Hierarchy {
	return []Hierarchy{{Mount: mount, Controllers: []string{"cpu", "memory", "pids", "cpuset"}}}
}

func TestCheckControllers(t *testing.T) {
	v2 := t.TempDir()
	g := Group{Name: "tsw-test", Hierarchies: []Hierarchy{{Mount: v2, V2: true}}}
	if err := os.MkdirAll(filepath.Join(v2, g.Name, Leaf), 0o755); err != nil {
		t.Fatal(err)
	}
	for have, missing := range map[string]string{"cpu cpuset io memory pids": "", "cpu io memory": "cpuset, pids"} {
		if err := os.WriteFile(filepath.Join(v2, g.Name, "cgroup.controllers"), []byte(have+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := g.Create()
		if (err == nil) != (missing == "") || err != nil && !strings.Contains(err.Error(), missing) {
			t.Errorf("with %q: got %v, want %q missing", have, err, missing)
		}
	}
	g.Hierarchies = nil
	if err := g.Create(); err == nil {
		t.Error("without any hierarchy: got no error")
	}
}

// A plain folder plays a hierarchy: making and removing groups is making and
// removing folders.
func TestCreateRemove(t *testing.T) {
	mount := t.TempDir()
	g := Group{Name: "tsw-test", Hierarchies: all(mount)}
	if g.Exists() {
		t.Fatal("exists before it was made")
	}
	if err := g.Remove(0); err != nil {
		t.Errorf("remove what is not there: %v", err)
	}
	for range 2 {
		if err := g.Create(); err != nil {
			t.Fatalf("create: %v", err)
		}
	}
	pod := filepath.Join(mount, g.Name, "kubepods", "pod1")
	if err := os.MkdirAll(pod, 0o755); err != nil {
		t.Fatal(err)
	}
	if !g.Exists() {
		t.Error("does not exist after it was made")
	}
	if err := g.Remove(time.Second); err != nil {
		t.Errorf("remove: %v", err)
	}
	if left, err := os.ReadDir(mount); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRemoveGivesUp(t *testing.T) {
	mount := t.TempDir()
	g := Group{Name: "tsw-test", Hierarchies: all(mount)}
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	// A file in the folder stands for what the kernel does not let go.
	if err := os.WriteFile(filepath.Join(mount, g.Name, "busy"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(0); err == nil || !strings.Contains(err.Error(), g.Name) {
		t.Errorf("got %v, want an error that names the group", err)
	}
}

func TestMembers(t *testing.T) {
	mount := t.TempDir()
	g := Group{Name: "tsw-test", Hierarchies: all(mount)}
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	for dir, procs := range map[string]string{"": "7\n", Leaf: "12\n3\n7\n"} {
		if err := os.WriteFile(filepath.Join(mount, g.Name, dir, "cgroup.procs"), []byte(procs), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := g.Members(), []int{3, 7, 12}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestInheritCPUSet(t *testing.T) {
	mount := t.TempDir()
	for name, value := range map[string]string{"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n"} {
		if err := os.WriteFile(filepath.Join(mount, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := Group{Name: "tsw-test", Hierarchies: all(mount)}
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(mount, g.Name, Leaf, "cpuset.cpus"))
	if err != nil || string(got) != "0-1\n" {
		t.Errorf("cpus of the leaf: got %q, %v", got, err)
	}
}
