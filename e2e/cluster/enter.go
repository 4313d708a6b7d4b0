//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/e2e/cluster/netns"
)

// InNodeArg makes the driver's executable run a program inside the node: it is
// followed by process 1's id and the program's arguments.
const InNodeArg = "__in-node"

// ErrNotUp means that there is no cluster to do something with.
var ErrNotUp = errors.New("the cluster is not up: run make cluster-up (as root)")

// Command is a program to run on one side of the wire.
type Command struct {
	Net   string   // "laptop", "node", or the name of a further node
	UID   int      // runs as this user of the machine; -1 means as the caller
	Binds []string // SRC:DST pairs: files of the machine that the program sees at DST
	Argv  []string
}

// Exec replaces the calling process by the command. It returns only an error.
func (n Names) Exec(c Command) error {
	space, known := map[string]netns.Namespace{"laptop": n.Laptop, "node": n.Node}[c.Net]
	if !known {
		if space = n.workerSpace(c.Net); !validWorker(c.Net) || !space.Exists() {
			return fmt.Errorf("network %q: want laptop, node, or the name of a node that was added", c.Net)
		}
	}
	if len(c.Argv) == 0 {
		return errors.New("no command given")
	}
	if !space.Exists() {
		return ErrNotUp
	}
	runtime.LockOSThread()
	if err := space.Enter(); err != nil {
		return err
	}
	if err := bindFiles(c.Binds); err != nil {
		return err
	}
	env := os.Environ()
	if c.UID >= 0 {
		var err error
		if env, err = become(c.UID, env); err != nil {
			return err
		}
	}
	program, err := exec.LookPath(c.Argv[0])
	if err != nil {
		return err // says what and why by itself
	}
	err = syscall.Exec(program, c.Argv, env)
	return fmt.Errorf("execute %s: %w", program, err)
}

// bindFiles lays files over others in a mount namespace of the thread's own.
func bindFiles(binds []string) error {
	if len(binds) == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	for _, b := range binds {
		source, target, ok := strings.Cut(b, ":")
		if !ok {
			return fmt.Errorf("bind %q: want SRC:DST", b)
		}
		// /etc/resolv.conf is often a symbolic link: lie on what it leads to.
		if real, err := filepath.EvalSymlinks(target); err == nil {
			target = real
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", source, target, err)
		}
	}
	return nil
}

// become makes the process an ordinary user's, with that user's groups and
// home.
func become(uid int, env []string) ([]string, error) {
	gid, home, name, groups := uid, "/", strconv.Itoa(uid), []int{}
	if who, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		home, name = who.HomeDir, who.Username
		if gid, err = strconv.Atoi(who.Gid); err != nil {
			return nil, fmt.Errorf("group of user %d: %w", uid, err)
		}
		ids, err := who.GroupIds()
		if err != nil {
			return nil, fmt.Errorf("groups of user %d: %w", uid, err)
		}
		for _, id := range ids {
			if g, err := strconv.Atoi(id); err == nil {
				groups = append(groups, g)
			}
		}
	} else if h := os.Getenv("HOME"); h != "" && owns(uid, h) {
		home = h // a user without a name, whom the caller gave a home
	}
	if err := syscall.Setgroups(groups); err != nil {
		return nil, fmt.Errorf("become user %d: %w", uid, err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return nil, fmt.Errorf("become user %d: %w", uid, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return nil, fmt.Errorf("become user %d: %w", uid, err)
	}
	var own []string
	for _, e := range env {
		key, _, _ := strings.Cut(e, "=")
		// The caller's sudo and session are not this user's.
		if key == "HOME" || key == "USER" || key == "LOGNAME" || key == "XDG_RUNTIME_DIR" && !owns(uid, os.Getenv(key)) || strings.HasPrefix(key, "SUDO_") {
			continue
		}
		own = append(own, e)
	}
	return append(own, "HOME="+home, "USER="+name, "LOGNAME="+name), nil
}

func owns(uid int, path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && int(st.Uid) == uid
}

// InNode is the body of InNodeArg. It returns only an error.
func InNode(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: " + InNodeArg + " PID PROGRAM [ARGUMENTS]")
	}
	runtime.LockOSThread()
	// A thread that shares its root and working folder with others cannot change
	// its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the node: %w", err)
	}
	var files []*os.File
	for _, kind := range []string{"net", "mnt"} {
		f, err := os.Open("/proc/" + args[0] + "/ns/" + kind)
		if err != nil {
			return fmt.Errorf("enter the node: %w", err)
		}
		files = append(files, f)
	}
	for _, f := range files {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("enter the node: %s: %w", f.Name(), err)
		}
	}
	err := syscall.Exec(args[1], args[1:], []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"})
	return fmt.Errorf("execute %s in the node: %w", args[1], err)
}

// inNode prepares a program that runs inside the node.
func inNode(ctx context.Context, p Process, argv ...string) (*exec.Cmd, error) {
	if !p.Alive() {
		return nil, ErrNotUp
	}
	args := append([]string{InNodeArg, strconv.Itoa(p.PID)}, argv...)
	return exec.CommandContext(ctx, "/proc/self/exe", args...), nil
}
