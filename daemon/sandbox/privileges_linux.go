package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// containerCaps are what root has in a container by default (the OCI runtimes' list), and so what a program that runs
// as root on the laptop keeps in the sandbox. None of them reaches beyond the sandbox's user namespace.
const containerCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
	1<<unix.CAP_KILL | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP |
	1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_MKNOD |
	1<<unix.CAP_AUDIT_WRITE | 1<<unix.CAP_SETFCAP

// dropPrivileges gives up the calling thread's capabilities, and with them those of what it starts: all of them
// for an ordinary user, all but a container's for root. Both may still start programs that bring one of a container's
// capabilities in their file, as ping does on many systems: the kernel refuses to start these where the bounding set lacks
// it (capabilities(7)). no_new_privs is not set: set-uid programs have no effect in the
// sandbox anyway (their owner is not mapped), and programs that make sandboxes of their own would refuse it.
func dropPrivileges() error {
	var keep uint64
	if os.Geteuid() == 0 {
		keep = containerCaps
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the sandbox's ambient capabilities: %w", err)
	}
	for c := range uintptr(64) {
		if containerCaps>>c&1 != 0 {
			continue
		}
		// EINVAL: the kernel knows no such capability.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d from the sandbox: %w", c, err)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(keep), uint32(keep>>32)
	data := [2]unix.CapUserData{
		{Effective: low, Permitted: low},
		{Effective: high, Permitted: high},
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("drop the sandbox's capabilities: %w", err)
	}
	return nil
}
