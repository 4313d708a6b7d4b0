//go:build unix

package runner

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	// groupGrace is what processes get that the command left behind, between SIGTERM and SIGKILL.
	groupGrace = 5 * time.Second
	// groupLook is how often it is looked whether they have ended.
	groupLook = 20 * time.Millisecond
)

// group is a command's process group: its own, or at a terminal ours, so that it gets what is typed.
type group struct {
	own     bool
	process *os.Process
}

// newGroup prepares a command's start.
func newGroup(cmd *exec.Cmd, terminal bool) (*group, error) {
	g := &group{own: !terminal}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: g.own}
	return g, nil
}

func (g *group) started(p *os.Process) error {
	g.process = p
	return nil
}

// signal sends a signal to the group. At a terminal it goes to the command alone, and what the terminal has sent to all is not
// sent again.
func (g *group) signal(sig os.Signal) error {
	number, ok := sig.(syscall.Signal)
	switch {
	case !ok:
		return g.process.Signal(sig)
	case !g.own && (number == syscall.SIGINT || number == syscall.SIGQUIT):
		return nil
	case !g.own:
		return g.process.Signal(sig)
	}
	err := syscall.Kill(-g.process.Pid, number)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// end ends what is left of the group once the command has ended.
func (g *group) end() {
	if !g.own {
		return
	}
	over := time.Now().Add(groupGrace)
	sig := syscall.SIGTERM
	for syscall.Kill(-g.process.Pid, sig) == nil {
		time.Sleep(groupLook)
		if sig = 0; time.Now().After(over) {
			sig = syscall.SIGKILL
		}
	}
}

func (g *group) close() {}

// exitOf is how a process ended.
func exitOf(st *os.ProcessState) Exit {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	return Exit{Code: st.ExitCode()}
}
