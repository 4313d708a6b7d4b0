package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// Feature is something of this machine's kernel that a sandbox is made of, and what is wrong with it: nil for nothing. An error
// says what to do in its last line.
type Feature struct {
	Name string
	Err  error
}

// FUSE is the name of the one feature that sandboxes do without.
const FUSE = "FUSE"

// Features looks at, and tries, everything that a sandbox needs. Unlike Check it starts a process, which ends at once.
func Features() []Feature {
	return []Feature{
		{"user namespaces", tryNamespaces()},
		{"TUN", tryDevice(tunDevice, "tun", "the sandbox's network is made of it; --no-sandbox does without")},
		{FUSE, tryDevice(fuseDevice, "fuse", "volumes that are no Secret or ConfigMap (emptyDir, claims, …) cannot be shown without it")},
	}
}

// tryNamespaces makes the namespaces that every sandbox is made of.
func tryNamespaces() error {
	program, err := os.Executable()
	if err != nil {
		program = "/usr/local/bin/teleswap"
	}
	if err := (host{root: "/", euid: os.Geteuid(), program: program}).checkUserNamespaces(); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", MapArg) // its standard input is empty, so it ends at once
	uid, gid := os.Geteuid(), os.Getegid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("this machine did not let us make namespaces: %w\ninside a container its seccomp or AppArmor profile may forbid "+
			"them (docker run --security-opt seccomp=unconfined); %s", err, withoutSandbox)
	}
	return nil
}

// tryDevice opens and closes a device, without which something is lost.
func tryDevice(device, module, lost string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("this machine has no %s: %s\nsudo modprobe %s; in a container, start it with --device %s", device, lost, module, device)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is not open to you: %s\nsudo chmod 0666 %s, as distributions ship it", device, lost, device)
	}
	return fmt.Errorf("open %s: %w: %s", device, err, lost)
}
