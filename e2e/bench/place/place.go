// Package place starts processes in a network namespace and as an ordinary
// user, and ends them by their own process id.
package place

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// Place is where a process runs. The zero Place is that of the caller.
type Place struct {
	// NetNS is the path of a network namespace; empty means the caller's.
	NetNS string
	// User is who it runs as; nil means the caller. Entering a namespace and
	// becoming another user need root and util-linux (nsenter, setpriv).
	User *User
	// Env is the whole environment; nil means the caller's.
	Env []string
	// Dir is the working directory; empty means the caller's.
	Dir string
}

// User is an ordinary user, without supplementary groups.
type User struct{ UID, GID int }

// Command prepares argv in the place. Every program put before it replaces
// itself by the next, so the command's process id is that of argv. It is in a
// process group of its own: a Ctrl-C at the terminal is for the bench alone,
// which ends its processes in order.
func (p Place) Command(argv ...string) *exec.Cmd {
	argv = p.wrap(argv)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = p.Env, p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (p Place) wrap(argv []string) []string {
	var before []string
	if p.NetNS != "" {
		before = append(before, "nsenter", "--net="+p.NetNS, "--")
	}
	if p.User != nil {
		before = append(before, "setpriv",
			"--reuid="+strconv.Itoa(p.User.UID), "--regid="+strconv.Itoa(p.User.GID),
			"--clear-groups", "--")
	}
	return append(before, argv...)
}

// String names the place in messages.
func (p Place) String() string {
	where, who := "here", "this user"
	if p.NetNS != "" {
		where = p.NetNS
	}
	if p.User != nil {
		who = fmt.Sprintf("uid %d", p.User.UID)
	}
	return where + " as " + who
}
