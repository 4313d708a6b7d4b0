package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts the first process of a sandbox in new namespaces and sends it spec. Unless spec.Terminal is set it stays in the
// caller's process group, so that it and the command get what a terminal sends. held are files that it keeps open without
// using them; when the caller dies it reads them, so that the command can go on writing to their other ends while it ends. Nil files are /dev/null. The caller waits for the command
// and closes the Control.
func Start(spec Spec, stdin, stdout, stderr *os.File, held ...*os.File) (*exec.Cmd, *Control, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the sandbox's control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer func() { _ = theirs.Close() }()
	ctl, err := NewControl(ours)
	if err != nil {
		return nil, nil, err
	}
	attr := &syscall.SysProcAttr{}
	if !spec.Plain {
		attr, err = namespaces()
	}
	if err != nil {
		_ = ctl.Close()
		return nil, nil, err
	}
	cmd := exec.Command("/proc/self/exe", InitArg)
	cmd.Args[0] = os.Args[0]
	attr.Setsid, attr.Setctty = spec.Terminal, spec.Terminal
	cmd.SysProcAttr = attr
	cmd.ExtraFiles = append([]*os.File{theirs}, held...)
	spec.Held = len(held)
	setStdio(cmd, stdin, stdout, stderr)
	if err := cmd.Start(); err != nil {
		_ = ctl.Close()
		return nil, nil, explainStart(err)
	}
	if err := ctl.Send(Order{Spec: &spec}); err != nil {
		_ = ctl.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, nil, err
	}
	return cmd, ctl, nil
}

// setStdio sets the files that are not nil: a nil *os.File in the interface would not be nil.
func setStdio(cmd *exec.Cmd, stdin, stdout, stderr *os.File) {
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if stderr != nil {
		cmd.Stderr = stderr
	}
}

// namespaces are the attributes of the first process. An ordinary user keeps the own uid and gid and sees no other; root
// keeps all that it may map, so that root's programs can still change user. Capabilities hold in the new
// namespaces only.
func namespaces() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP},
	}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	var err error
	if attr.UidMappings, err = identityMap("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	if attr.GidMappings, err = identityMap("/proc/self/gid_map"); err != nil {
		return nil, err
	}
	// Denied once, as in a rootless container, it stays so for all namespaces below.
	allowed, err := os.ReadFile("/proc/self/setgroups")
	attr.GidMappingsEnableSetgroups = err == nil && strings.TrimSpace(string(allowed)) == "allow"
	return attr, nil
}

// identityMap maps each id that our own user namespace knows (user_namespaces(7)) to itself.
func identityMap(path string) ([]syscall.SysProcIDMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read our own id map: %w", err)
	}
	defer func() { _ = f.Close() }()
	var ids []syscall.SysProcIDMap
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.Atoi(fields[0])
		size, err2 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil {
			ids = append(ids, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: size})
		}
	}
	return ids, lines.Err()
}
