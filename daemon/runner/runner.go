// Package runner starts the user's command in a sandbox and stays in touch with it: signals, exit status, terminal.
// It is what the CLI calls; it knows no Kubernetes.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/teleswap/teleswap/daemon/sandbox"
)

// InitArg is the first argument with which the program must return InitMain's exit status and do nothing else.
const InitArg = sandbox.InitArg

// Spec says what a sandbox is and what runs in it.
type Spec = sandbox.Spec

// Mount is one place of a sandbox at which a volume of the pod is seen.
type Mount = sandbox.Mount

// Exit is how the command ended: by itself with Code, or by Signal (then Code is 128+Signal).
type Exit = sandbox.Exit

// Stdio are the files that the command gets as its standard input, output and error. Nil: /dev/null. They stay the
// caller's.
type Stdio struct{ In, Out, Err *os.File }

// Process is a command that runs in a sandbox. Its methods are safe for concurrent use.
//
// The command is in the caller's process group: what a terminal sends (Ctrl-C, Ctrl-Z, hang-up) reaches it without
// the caller. When the caller dies, the command and all it started get SIGTERM, and 10 s later SIGKILL.
type Process struct {
	cmd *exec.Cmd
	ctl *sandbox.Control
	pid int

	ended chan struct{} // closed once exit and err are set
	exit  Exit
	err   error
}

// Start makes the sandbox, waits until the daemon has taken it over, and starts the command. ctx bounds the start only;
// when it ends earlier nothing is left. The caller must call Wait.
func Start(ctx context.Context, spec Spec, stdio Stdio) (*Process, error) {
	cmd, ctl, err := sandbox.Start(spec, stdio.In, stdio.Out, stdio.Err)
	if err != nil {
		return nil, err
	}
	// Closing the socket is the first process's sign to give up.
	stop := context.AfterFunc(ctx, func() { _ = ctl.Close() })
	var r sandbox.Report
	err = ctl.Receive(&r)
	stopped := stop()
	switch {
	case !stopped:
		err = fmt.Errorf("start the sandbox: %w", ctx.Err())
	case err != nil:
		err = fmt.Errorf("start the sandbox: its first process ended: %w", err)
	case r.Failed != "":
		err = errors.New(r.Failed)
	default:
		p := &Process{cmd: cmd, ctl: ctl, pid: r.Started, ended: make(chan struct{})}
		go p.watch()
		return p, nil
	}
	_ = ctl.Close()
	_ = cmd.Wait()
	return nil, err
}

// watch waits for the end of the command and then of the sandbox.
func (p *Process) watch() {
	defer close(p.ended)
	var exit *Exit
	for exit == nil {
		var r sandbox.Report
		if err := p.ctl.Receive(&r); err != nil {
			break
		}
		exit = r.Exit
	}
	err := p.cmd.Wait()
	_ = p.ctl.Close()
	var status *exec.ExitError
	switch {
	case exit != nil:
		p.exit = *exit
	case errors.As(err, &status):
		p.exit, p.err = lost(status)
	default:
		p.err = fmt.Errorf("wait for the sandbox: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
}

// lost is the exit of a command whose sandbox ended first: by a signal, which ends the command too.
func lost(status *exec.ExitError) (Exit, error) {
	err := fmt.Errorf("the sandbox's first process ended before the command: %w", status)
	if ws, ok := status.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}, err
	}
	return Exit{Code: status.ExitCode()}, err
}

// Pid is the command's process id.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the command and all processes it left behind have ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Wait waits until the command and all processes it left behind have ended; those get SIGTERM when the command ends,
// and 5 s later SIGKILL. It may be called many times.
func (p *Process) Wait() (Exit, error) {
	<-p.ended
	return p.exit, p.err
}

// Signal sends sig to the command and everything it started, also to what has left its process group. A signal that
// the terminal has just sent to the whole process group is not sent again: so the caller may pass on what it gets
// itself without asking where from. It returns os.ErrProcessDone when all have ended.
func (p *Process) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok || s <= 0 {
		return fmt.Errorf("signal the command: %v is no signal of this system", sig)
	}
	select {
	case <-p.ended:
		return os.ErrProcessDone
	default:
	}
	if err := p.ctl.Send(sandbox.Order{Signal: s}); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
			return os.ErrProcessDone
		}
		return err
	}
	return nil
}

// InitMain is what the program does when its first argument is InitArg: be the first process of a sandbox. args are
// the arguments after InitArg; there are none so far. It returns the exit status of the program.
func InitMain(args []string) int {
	if len(args) > 0 {
		return 2
	}
	return sandbox.Init()
}
