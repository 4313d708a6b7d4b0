//go:build linux

package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/cluster/node"
)

func TestParseTaint(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Taint
	}{
		{"a=b:NoSchedule", Taint{"a", "b", "NoSchedule"}},
		{"example.com/a=:NoExecute", Taint{"example.com/a", "", "NoExecute"}},
		{"a:PreferNoSchedule", Taint{"a", "", "PreferNoSchedule"}},
		{"a=b", Taint{}},
		{"=b:NoSchedule", Taint{}},
		{"a=b:Never", Taint{}},
	} {
		got, err := ParseTaint(tt.text)
		if got != tt.want || (err == nil) != (tt.want.Key != "") {
			t.Errorf("%s: got %+v, %v", tt.text, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "KEY=VALUE:EFFECT") {
			t.Errorf("%s: %v does not say how to write it", tt.text, err)
		}
	}
}

func TestWorkerAddresses(t *testing.T) {
	seen := map[string]bool{NodeIP: true, NodeIP6: true}
	for index := 1; index <= maxWorkers; index++ {
		w := Worker{Index: index}
		four, six := w.addrs()
		pods, pods6 := node.PodCIDRs(index)
		for _, a := range []string{four, six, pods, pods6, w.link()} {
			if seen[a] {
				t.Errorf("node %d has %s, as another", index, a)
			}
			seen[a] = true
		}
	}
	if four, six := (&Worker{Index: 1}).addrs(); four != "192.168.56.3" || six != "fd00:192:168:56::3" {
		t.Errorf("the first further node has %s, %s", four, six)
	}
}

func TestNewWorker(t *testing.T) {
	var r Record
	for range maxWorkers {
		if _, err := r.newWorker("a"); err != nil {
			t.Fatal(err)
		}
	}
	if w, err := r.newWorker("b"); err == nil {
		t.Errorf("one too many: got %+v", w)
	}
	r.Workers = append(r.Workers[:3:3], r.Workers[4:]...)
	if w, err := r.newWorker("b"); err != nil || w.Index != 4 || r.worker("b") != w {
		t.Errorf("after one has gone: got %+v, %v, want its index, 4", w, err)
	}
}

func TestAddNodeRefuses(t *testing.T) {
	n := namesFor(t.TempDir())
	for name, want := range map[string]string{"node": "first", "Node2": "a-z", "": "a-z", "../x": "a-z", "node2": ErrNotUp.Error()} {
		if err := AddNode(t.Context(), n, discard(), NewNode{Name: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", name, err, want)
		}
	}
}

// A further node joins, is found again, is made anew when it has ended, and goes without a trace: by itself or with the
// cluster.
func TestAddRemoveNode(t *testing.T) {
	n := scratch(t)
	if err := Up(t.Context(), n, discard()); err != nil {
		t.Fatal(err)
	}
	add := func() Process {
		t.Helper()
		if err := AddNode(t.Context(), n, discard(), NewNode{Name: "second"}); err != nil {
			t.Fatal(err)
		}
		r, err := loadRecord(n.record())
		if err != nil || len(r.Workers) != 1 || !r.Workers[0].Process.Alive() {
			t.Fatalf("the record: %+v, %v", r, err)
		}
		return r.Workers[0].Process
	}
	first := add()
	if again := add(); again != first {
		t.Errorf("added again: got %+v, want %+v as before", again, first)
	}
	if s, err := Look(t.Context(), n); err != nil || s.State != "up" || len(s.Workers) != 1 || !s.Workers[0].Up {
		t.Errorf("status: got %+v, %v", s, err)
	}
	if err := first.Kill(killPatience); err != nil {
		t.Fatal(err)
	}
	second := add()
	if second == first {
		t.Error("the node that had ended was not made anew")
	}
	for range 2 {
		if err := RemoveNode(t.Context(), n, discard(), "second"); err != nil {
			t.Fatal(err)
		}
	}
	group, err := n.workerGroup("second")
	if err != nil {
		t.Fatal(err)
	}
	if second.Alive() || group.Exists() || n.workerSpace("second").Traces() {
		t.Errorf("after the removal: process %t, cgroup %t, namespace %t", second.Alive(), group.Exists(), n.workerSpace("second").Traces())
	}
	if _, err := os.Stat(n.workerHome("second")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the node's folder: %v", err)
	}
	add()
	if err := Down(t.Context(), n, discard()); err != nil {
		t.Fatal(err)
	}
	clean(t, n, "after down")
}

// A node whose start is cut off between any two of its steps goes with the cluster, or is made anew.
func TestAddNodeCutOff(t *testing.T) {
	n := scratch(t)
	if err := Up(t.Context(), n, discard()); err != nil {
		t.Fatal(err)
	}
	want := NewNode{Name: "second", Images: []string{"teleswap.dev/coredns:1"}}
	var names []string
	cutOff := func(after int) {
		t.Helper()
		r, err := n.running()
		if err != nil {
			t.Fatal(err)
		}
		s := &start{Names: n, logger: discard(), record: r}
		if err := s.askAsAdmin(); err != nil {
			t.Fatal(err)
		}
		if s.built, _, err = n.build(t.Context(), discard()); err != nil {
			t.Fatal(err)
		}
		w, err := r.newWorker(want.Name)
		if err != nil {
			t.Fatal(err)
		}
		steps := s.joinSteps(w, want)
		names = names[:0]
		for _, step := range steps {
			names = append(names, step.name)
		}
		if err := s.take(t.Context(), steps[:after+1]); err != nil {
			t.Fatal(err)
		}
	}
	for last := 0; last == 0 || last < len(names)-1; last++ {
		cutOff(last)
		if err := AddNode(t.Context(), n, discard(), want); err != nil {
			t.Fatalf("made anew after %s: %v", names[last], err)
		}
		if err := RemoveNode(t.Context(), n, discard(), want.Name); err != nil {
			t.Fatalf("removed after %s: %v", names[last], err)
		}
	}
	for _, name := range []string{"network", "node"} {
		last := 0
		for i := range names {
			if names[i] == name {
				last = i
			}
		}
		cutOff(last)
		if err := Down(t.Context(), n, discard()); err != nil {
			t.Fatalf("down after %s: %v", name, err)
		}
		clean(t, n, "cut off after "+name)
		if _, err := os.Stat(filepath.Join(machineRoot, n.ID)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cut off after %s: the folder: %v", name, err)
		}
		if err := Up(t.Context(), n, discard()); err != nil {
			t.Fatal(err)
		}
	}
}
