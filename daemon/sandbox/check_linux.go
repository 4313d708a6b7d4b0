package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Check says whether this user can make a sandbox on this machine: nil, or what is missing and the line that changes
// it. It reads a few files only, so it suits every swap; what it cannot foresee is said by Start.
func Check() error {
	program, err := os.Executable()
	if err != nil {
		program = "/usr/local/bin/teleswap"
	}
	return host{root: "/", euid: os.Geteuid(), openTUN: openTUN, program: program}.check()
}

// host is what Check looks at.
type host struct {
	root    string // of the files below /proc and /dev
	euid    int
	openTUN func() (*os.File, error)
	program string // our own path, for a message
}

func (h host) check() error {
	if err := h.checkUserNamespaces(); err != nil {
		return err
	}
	f, err := h.openTUN()
	if err != nil {
		return explainTUN(err)
	}
	return f.Close()
}

// checkUserNamespaces reads the switches with which kernels and distributions forbid user namespaces.
func (h host) checkUserNamespaces() error {
	if _, err := os.Stat(filepath.Join(h.root, "proc/self/ns/user")); errors.Is(err, fs.ErrNotExist) {
		return errors.New("this kernel has no user namespaces (CONFIG_USER_NS), which the sandbox is made of\n" + withoutSandbox)
	}
	for _, s := range []struct{ sysctl, forbids, allow string }{
		{"user.max_user_namespaces", "0", "15000"},
		{"user.max_net_namespaces", "0", "15000"},
		{"user.max_mnt_namespaces", "0", "15000"},
		{"kernel.unprivileged_userns_clone", "0", "1"}, // Debian's and Arch's kernels
		{apparmorSwitch, "1", "0"},
	} {
		privileged := strings.HasPrefix(s.sysctl, "kernel.")
		if h.sysctl(s.sysctl) != s.forbids || privileged && h.euid == 0 {
			continue
		}
		if s.sysctl == apparmorSwitch && h.apparmorAllows() {
			continue
		}
		return fmt.Errorf("this machine forbids user namespaces, which the sandbox is made of (%s=%s)\n"+
			"to allow them: sudo sysctl -w %s=%s (a file in /etc/sysctl.d keeps it so)%s\n%s",
			s.sysctl, s.forbids, s.sysctl, s.allow, h.profileHint(s.sysctl), withoutSandbox)
	}
	return nil
}

// withoutSandbox is the other way to go.
const withoutSandbox = "without a sandbox: --no-sandbox runs the process in this machine's own network, see the user guide"

// profileHint is how Ubuntu wants one program to be allowed what it forbids all others.
func (h host) profileHint(sysctl string) string {
	if sysctl != apparmorSwitch {
		return ""
	}
	return fmt.Sprintf("\nor allow teleswap alone, by an AppArmor profile: "+
		"echo 'abi <abi/4.0>, include <tunables/global> profile teleswap %s flags=(unconfined) { userns, }' | "+
		"sudo tee /etc/apparmor.d/teleswap && sudo apparmor_parser -r /etc/apparmor.d/teleswap", h.program)
}

// apparmorSwitch is Ubuntu's, since 23.10.
const apparmorSwitch = "kernel.apparmor_restrict_unprivileged_userns"

// apparmorAllows says whether we run under an AppArmor profile of our own: Ubuntu restricts unconfined programs only,
// and a profile with "userns," is its way to allow one.
func (h host) apparmorAllows() bool {
	b, err := os.ReadFile(filepath.Join(h.root, "proc/self/attr/current"))
	label := strings.TrimRight(strings.TrimSpace(string(b)), "\x00")
	return err == nil && label != "" && label != "unconfined"
}

func (h host) sysctl(name string) string {
	b, err := os.ReadFile(filepath.Join(h.root, "proc/sys", strings.ReplaceAll(name, ".", "/")))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

const tunDevice = "/dev/net/tun"

func openTUN() (*os.File, error) { return os.OpenFile(tunDevice, os.O_RDWR, 0) }

// explainTUN says what to do where the TUN device cannot be opened.
func explainTUN(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("the sandbox needs %s, which this machine does not have: sudo modprobe tun; "+
			"in a container, start it with --device %s; or swap with --no-sandbox: %w", tunDevice, tunDevice, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the sandbox needs %s to be open to every user, as distributions ship it: sudo chmod 0666 %s; "+
			"to keep it so: echo 'KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"' | "+
			"sudo tee /etc/udev/rules.d/50-tun.rules: %w", tunDevice, tunDevice, err)
	default:
		return fmt.Errorf("open %s for the sandbox: %w", tunDevice, err)
	}
}

// explainStart says what to do where the kernel did not let us make the namespaces.
func explainStart(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EACCES) &&
		!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EUSERS) {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	if why := Check(); why != nil {
		return errors.Join(why, err)
	}
	return fmt.Errorf("this machine did not let us make the sandbox's namespaces; inside a container its seccomp or "+
		"AppArmor profile may forbid them (docker run --security-opt seccomp=unconfined): %w\n%s", err, withoutSandbox)
}
