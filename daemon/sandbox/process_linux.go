package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPasses bounds how often Kill looks for processes that were forked while it was killing.
const maxPasses = 64

// process is one line of the process table. A number alone could be another process's a moment later.
type process struct {
	pid, parent int
	start       uint64 // since boot, in clock ticks
	stopped     bool   // by a signal, as Ctrl-Z's, or by a debugger
}

// signal sends sig to the process, if it is still the same one.
func (p process) signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return unix.Kill(p.pid, sig)
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if now, err := readProcess(p.pid); err != nil || now.start != p.start {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// readProcess reads /proc/PID/stat (proc_pid_stat(5)).
func readProcess(pid int) (process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	return parseStat(b)
}

// parseStat parses a line of /proc/PID/stat. The command's name in it may hold spaces and parentheses.
func parseStat(b []byte) (process, error) {
	bad := func() (process, error) { return process{}, fmt.Errorf("no process status: %q", b) }
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return bad()
	}
	fields := bytes.Fields(b[end+1:])
	const state, parent, start = 0, 1, 19 // fields 3, 4 and 22
	if len(fields) <= start {
		return bad()
	}
	var p process
	var errs [3]error
	p.pid, errs[0] = strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	p.parent, errs[1] = strconv.Atoi(string(fields[parent]))
	p.start, errs[2] = strconv.ParseUint(string(fields[start]), 10, 64)
	if errors.Join(errs[:]...) != nil {
		return bad()
	}
	p.stopped = len(fields[state]) == 1 && bytes.ContainsAny(fields[state], "Tt")
	return p, nil
}

// processes returns all processes that we can see.
func processes() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// descendants returns the children of process pid, their children and so on, parents first.
func descendants(pid int) []process {
	children := map[int][]process{}
	for _, p := range processes() {
		children[p.parent] = append(children[p.parent], p)
	}
	tree := slices.Clone(children[pid])
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i].pid]...)
	}
	return tree
}

// Processes returns the processes in a network namespace, as far as we may see theirs.
func Processes(netns *os.File) ([]int, error) {
	members, err := members(netns)
	if err != nil {
		return nil, err
	}
	pids := make([]int, len(members))
	for i, p := range members {
		pids[i] = p.pid
	}
	return pids, nil
}

func members(netns *os.File) ([]process, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(netns.Fd()), &want); err != nil {
		return nil, fmt.Errorf("stat network namespace: %w", err)
	}
	var in []process
	for _, p := range processes() {
		var got unix.Stat_t
		err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.pid), &got)
		if err == nil && got.Dev == want.Dev && got.Ino == want.Ino {
			in = append(in, p)
		}
	}
	return in, nil
}

// Kill sends sig once to every process in the network namespace but the excepted ones, and looks again until none is
// found that was not sent it: so none escapes by forking. It does not wait until they have ended. A process that
// went on into a namespace of its own is not found.
func Kill(netns *os.File, sig syscall.Signal, except ...int) error {
	type identity struct {
		pid   int
		start uint64
	}
	sent := map[identity]bool{}
	for range maxPasses {
		in, err := members(netns)
		if err != nil {
			return err
		}
		fresh := false
		for _, p := range in {
			id := identity{p.pid, p.start}
			if slices.Contains(except, p.pid) || sent[id] {
				continue
			}
			sent[id], fresh = true, true
			if err := p.signal(sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("send %v to process %d: %w", sig, p.pid, err)
			}
		}
		if !fresh {
			return nil
		}
	}
	return fmt.Errorf("processes keep appearing in the sandbox while %v is sent", sig)
}
