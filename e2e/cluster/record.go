//go:build linux

package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Phases of a cluster. Whatever is not up is cleaned before anything else.
const (
	phaseStarting = "starting"
	phaseUp       = "up"
)

// Record says what of the cluster is on the machine. Each thing is written down
// before it is made. Names are derived, not recorded: only what cannot be
// derived is here.
type Record struct {
	Clone    string    `json:"clone"`
	Name     string    `json:"name,omitempty"`
	Phase    string    `json:"phase"`
	Build    string    `json:"build"` // key of the programs
	BootID   string    `json:"bootID"`
	Node     Process   `json:"node"` // process 1 of the first node
	HostPort int       `json:"hostPort"`
	Workers  []*Worker `json:"workers,omitempty"` // the further nodes
}

// Process is a process id and when, in clock ticks since boot, it started: ids
// are used again.
type Process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
}

// NewProcess looks up a live process.
func NewProcess(pid int) (Process, error) {
	start, err := startTime(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start}, nil
}

// Alive tells whether it is still this process, and not one that only waits to
// be reaped.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// Kill ends the process and waits until it is gone.
func (p Process) Kill(patience time.Duration) error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The descriptor stands for the process that has the id now: look again.
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	deadline := time.Now().Add(patience)
	for p.Alive() {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("process %d does not end", p.PID)
		}
		// Readable means ended.
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
	}
	return nil
}

// startTime reads field 22 of proc_pid_stat(5); a zombie counts as gone.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	return parseStat(data)
}

func parseStat(data []byte) (uint64, error) {
	// The name, in parentheses, may hold spaces and parentheses.
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return 0, errors.New("malformed process status")
	}
	fields := strings.Fields(string(data[i+1:]))
	if len(fields) < 20 {
		return 0, errors.New("malformed process status")
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, syscall.ESRCH
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// loadRecord gives nil when there is none, and one of a half-made cluster when
// it cannot be understood.
func loadRecord(name string) (*Record, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's record: %w", err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		// Names are derived, so a record that cannot be read costs only the check
		// of process 1; the cgroup has it too.
		return &Record{Phase: phaseStarting}, nil
	}
	return &r, nil
}

func (r *Record) save(name string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	if err := writeAtomic(name, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	return nil
}

// writeAtomic replaces a file: readers see the old or the new, also after a
// crash.
func writeAtomic(name string, data []byte, mode os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// bootID tells one boot of the machine from the next: process ids and network
// namespaces do not outlive it.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
