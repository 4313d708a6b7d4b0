package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountThread is a thread in another process's mount namespace. Paths that are looked up by what it does are that
// namespace's.
type mountThread struct {
	work chan func() error
	done chan error
}

// enterMounts makes a thread in the mount namespace of process pid; leave ends it.
func enterMounts(pid int) (*mountThread, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("open the container's mount namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	t := &mountThread{work: make(chan func() error), done: make(chan error)}
	go t.loop(int(ns.Fd()))
	if err := <-t.done; err != nil {
		close(t.work)
		return nil, fmt.Errorf("enter the container's mount namespace: %w", err)
	}
	return t, nil
}

// loop ends with leave, and its thread with it, as it is never unlocked.
func (t *mountThread) loop(ns int) {
	runtime.LockOSThread()
	// Threads share root and working directory; who shares them may not change its namespace (setns(2)).
	err := unix.Unshare(unix.CLONE_FS)
	if err == nil {
		err = unix.Setns(ns, unix.CLONE_NEWNS)
	}
	t.done <- err
	for do := range t.work {
		t.done <- do()
	}
}

// do has the thread do something, and waits for it.
func (t *mountThread) do(f func() error) error {
	t.work <- f
	return <-t.done
}

func (t *mountThread) leave() { close(t.work) }

// MapArg is the first argument with which the program waits to be killed, see idMap.
const MapArg = "__sandbox-ids"

// idMap is a user namespace by whose map what owner owns belongs to as; nil where they are the same. Files of an ordinary
// user, whom the container does not know, are its command's own that way. Root stays root, so that we can go
// on making directories in there.
func idMap(owner, as user) (*os.File, error) {
	if owner == as {
		return nil, nil
	}
	// It has to be some process's, which may end once it is open.
	cmd := exec.Command("/proc/self/exe", MapArg)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL,
		UidMappings: mapTo(owner.UID, as.UID), GidMappings: mapTo(owner.GID, as.GID),
		GidMappingsEnableSetgroups: true,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a map of users for the container's volumes: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	_ = stdin.Close()
	_ = cmd.Wait()
	if err != nil {
		return nil, fmt.Errorf("make a map of users for the container's volumes: %w", err)
	}
	return f, nil
}

// mapTo shows what id owns as another's, and something of root's as root's.
func mapTo(id, as int) []syscall.SysProcIDMap {
	ids := []syscall.SysProcIDMap{{ContainerID: id, HostID: as, Size: 1}}
	if as != 0 {
		roots := 0
		if id == 0 {
			roots = 1
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: roots, HostID: 0, Size: 1})
	}
	return ids
}

// WaitMapped is what the program does with MapArg: wait until its standard input is closed.
func WaitMapped() int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}
