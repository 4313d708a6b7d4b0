//go:build linux

package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Arguments that the driver's executable takes for its own use.
const (
	StageArg = "__node"  // Stage
	InitArg  = "__init"  // Init
	RelayArg = "__relay" // the relay, started by Init
	// PolicyArg is the enforcer of NetworkPolicies, started by Init.
	PolicyArg = "__policy"
)

// CloneFlags are the namespaces that Stage must be started in.
const CloneFlags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// Stage prepares the calling process, which is process 1 of a new PID
// namespace, and then executes Init in its place. Namespaces belong to threads:
// only by executing anew do all threads of a Go program come into one. It
// returns only an error.
func Stage(pipe *os.File) error {
	cfg, err := readConfig(pipe)
	if err != nil {
		return err
	}
	_ = pipe.Close()
	runtime.LockOSThread()
	if err := shedInheritance(); err != nil {
		return err
	}
	if err := cfg.Group.Join(); err != nil {
		return err
	}
	if err := cfg.enterNetwork(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(cfg.Name)); err != nil {
		return fmt.Errorf("set the node's host name: %w", err)
	}
	if err := cfg.mounts(); err != nil {
		return err
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode the node's configuration: %w", err)
	}
	if err := os.WriteFile(home+"/node.json", data, 0o600); err != nil {
		return fmt.Errorf("hand on the node's configuration: %w", err)
	}
	env := []string{
		"PATH=" + BinDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TMPDIR=/tmp",
	}
	err = syscall.Exec("/proc/self/exe", []string{"cluster-node", InitArg}, env)
	return fmt.Errorf("execute the node's process 1: %w", err)
}

// openFiles is the limit that systemd gives a container runtime.
const openFiles = 1 << 20

// shedInheritance drops what the node would have from whoever happened to start
// it: open files (the pipe of a shell's 2> >(tee log) would stay open as long as
// the node), the umask, the limit of open files.
func shedInheritance() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list inherited files: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	unix.Umask(0o022)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	// Raising the hard limit takes CAP_SYS_RESOURCE; without it, what there is.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: openFiles, Max: max(openFiles, limit.Max)}); err != nil {
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("limit of open files: %w", err)
		}
	}
	return nil
}

// enterNetwork keeps the machine's network namespace open for the relay, and
// enters the node's.
func (c *Config) enterNetwork() error {
	// Without close-on-exec: Init inherits it.
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open the machine's network namespace: %w", err)
	}
	c.HostNetFD = fd
	ns, err := unix.Open(c.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the node's network namespace %s: %w", c.NetNS, err)
	}
	defer func() { _ = unix.Close(ns) }()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the node's network namespace: %w", err)
	}
	return nil
}

// bind is a folder of the machine that shows at a place in the node.
type bind struct {
	source, target string
	fd             int
}

// mounts gives the node /run, /var/lib, /var/log and /proc of its own. All goes
// with the mount namespace: nothing of it is ever seen on the machine.
func (c *Config) mounts() error {
	// What is mounted on the machine later shows in the node, not the other way
	// round; inside the node, mounts propagate as the kubelet wants it.
	for _, flag := range []uintptr{unix.MS_SLAVE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", flag|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("set mount propagation: %w", err)
		}
	}
	binds := []bind{
		{source: c.Bin, target: BinDir},
		{source: c.Images, target: ImageDir},
		{source: c.Etc, target: EtcDir},
		{source: c.Lib, target: "/var/lib"},
		{source: c.Log, target: "/var/log"},
	}
	// Opened first: the sources may lie below what the mounts cover.
	for i := range binds {
		fd, err := unix.Open(binds[i].source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", binds[i].source, err)
		}
		binds[i].fd = fd
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, b := range binds {
		if err := os.MkdirAll(b.target, 0o755); err != nil {
			return fmt.Errorf("make a mount point: %w", err)
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", b.fd), b.target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", b.source, b.target, err)
		}
		_ = unix.Close(b.fd)
	}
	for _, dir := range []string{"/run/netns", "/run/lock", LogDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a folder of the node: %w", err)
		}
	}
	return coverSysctls()
}

// coverSysctls lays files with the values that the kubelet wants over the
// settings that it would otherwise change for the whole machine, which has one
// kernel with the node.
func coverSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			continue // a kernel without it
		}
		cover := filepath.Join(home, "sysctl", name)
		if err := os.MkdirAll(filepath.Dir(cover), 0o755); err != nil {
			return fmt.Errorf("cover %s: %w", target, err)
		}
		if err := os.WriteFile(cover, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("cover %s: %w", target, err)
		}
		if err := unix.Mount(cover, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", target, err)
		}
	}
	return nil
}
