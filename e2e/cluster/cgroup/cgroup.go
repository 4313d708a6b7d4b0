//go:build linux

// Package cgroup gives the cluster a cgroup of its own in every hierarchy of
// the machine (v1, v2 or both), and ends and removes all that is in it. What
// runs in such a group cannot get away: a process leaves only if it is moved.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Leaf is the group, below the cluster's own, that the node's processes join.
// With cgroup v2 a group that has children with controllers can hold no
// process itself.
const Leaf = "init"

// Hierarchy is one mounted cgroup tree.
type Hierarchy struct {
	Mount       string   // where it is mounted, and its root as we see it
	Controllers []string // of a v1 hierarchy, with named ones as name=…; nil for v2
	V2          bool
}

// Hierarchies lists the cgroup trees that are mounted.
func Hierarchies() ([]Hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	defer func() { _ = f.Close() }()
	return parseMountInfo(f)
}

// parseMountInfo reads proc_pid_mountinfo(5).
func parseMountInfo(r io.Reader) ([]Hierarchy, error) {
	var found []Hierarchy
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		h := Hierarchy{Mount: unescape(left[4])}
		switch right[0] {
		case "cgroup2":
			h.V2 = true
		case "cgroup":
			h.Controllers = v1Controllers(right[2])
		default:
			continue
		}
		if !seen[h.Mount] {
			seen[h.Mount] = true
			found = append(found, h)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	return found, nil
}

// v1Controllers picks the controllers out of a v1 mount's super options.
func v1Controllers(options string) []string {
	known := []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"}
	var list []string
	for o := range strings.SplitSeq(options, ",") {
		if slices.Contains(known, o) || strings.HasPrefix(o, "name=") {
			list = append(list, o)
		}
	}
	return list
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	for _, e := range []struct{ code, char string }{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, e.code, e.char)
	}
	return s
}

// Group is a cgroup of the same name in every hierarchy.
type Group struct {
	Name        string
	Hierarchies []Hierarchy
}

// Create makes the group and its Leaf everywhere. It may be there already.
func (g Group) Create() error {
	for _, h := range g.Hierarchies {
		top := filepath.Join(h.Mount, g.Name)
		for _, dir := range []string{top, filepath.Join(top, Leaf)} {
			if h.V2 {
				enableControllers(filepath.Dir(dir))
			}
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("create cgroup: %w", err)
			}
			if slices.Contains(h.Controllers, "cpuset") {
				if err := inheritCPUSet(dir); err != nil {
					return fmt.Errorf("create cgroup: %w", err)
				}
			}
		}
	}
	return g.checkControllers()
}

// checkControllers says which of the controllers that the kubelet cannot do
// without the group has in no hierarchy.
func (g Group) checkControllers() error {
	var have []string
	for _, h := range g.Hierarchies {
		have = append(have, h.Controllers...)
		if data, err := os.ReadFile(filepath.Join(h.Mount, g.Name, "cgroup.controllers")); err == nil && h.V2 {
			have = append(have, strings.Fields(string(data))...)
		}
	}
	var missing []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("cgroup %s: no controller %s there, which the kubelet needs: "+
		"in a container, give it the machine's cgroups (docker run --privileged --cgroupns=host); "+
		"on a machine with cgroup v1, they must be mounted", g.Name, strings.Join(missing, ", "))
}

// enableControllers hands every controller that a v2 group has on to its
// children, each by itself: one that cannot be handed on must not keep back the
// others. The kubelet names what it misses.
func enableControllers(dir string) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(string(have)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// inheritCPUSet fills what a new v1 cpuset has empty; no process can join it
// before.
func inheritCPUSet(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			// A v1 hierarchy mounted with noprefix, or cgroup.clone_children.
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Join moves the calling process into the group's Leaf in every hierarchy.
func (g Group) Join() error {
	for _, h := range g.Hierarchies {
		// 0 is the writer itself, whichever PID namespace it is in.
		if err := os.WriteFile(filepath.Join(h.Mount, g.Name, Leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Exists tells whether the group is there in any hierarchy.
func (g Group) Exists() bool {
	for _, h := range g.Hierarchies {
		if _, err := os.Stat(filepath.Join(h.Mount, g.Name)); err == nil {
			return true
		}
	}
	return false
}

// Members lists the processes in the group and below it.
func (g Group) Members() []int {
	found := map[int]bool{}
	for _, h := range g.Hierarchies {
		for _, dir := range tree(filepath.Join(h.Mount, g.Name)) {
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue // a group that went away meanwhile holds nobody
			}
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					found[pid] = true
				}
			}
		}
	}
	pids := make([]int, 0, len(found))
	for pid := range found {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// Remove kills every process in the group, waits until they are gone, and
// removes the group everywhere. A group that is not there is no error. It gives
// up after patience.
func (g Group) Remove(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		for _, pid := range g.Members() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // ended meanwhile: as wanted
		}
		err := g.rmdir()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w (processes %v)", g.Name, err, g.Members())
		}
		// Processes take a moment to die, and the kernel to count them out.
		time.Sleep(20 * time.Millisecond)
	}
}

func (g Group) rmdir() error {
	var last error
	for _, h := range g.Hierarchies {
		dirs := tree(filepath.Join(h.Mount, g.Name))
		for _, dir := range slices.Backward(dirs) {
			if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
				last = &fs.PathError{Op: "rmdir", Path: dir, Err: err}
			}
		}
	}
	return last
}

// tree lists a group and all below it, parents first.
func tree(top string) []string {
	var dirs []string
	// What cannot be read has gone away, or is no group of ours.
	_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	return dirs
}
