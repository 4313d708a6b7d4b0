// Package runner starts the user's command in a sandbox and stays in touch with it: signals, exit status, terminal.
// It is what the CLI calls; it knows no Kubernetes.
//
// Terminals are golang.org/x/term's as far as that goes; a new pair is made by ioctl(2), since github.com/creack/pty opens
// the command's end by its path in a /dev/pts that need not be the same mount, and neither copies a terminal's settings or
// tells its foreground.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
)

// InitArg is the first argument with which the program must return InitMain's exit status and do nothing else.
const InitArg = sandbox.InitArg

// Spec says what a sandbox is and what runs in it.
type Spec = sandbox.Spec

// Mount is one place of a sandbox at which a volume of the pod is seen.
type Mount = sandbox.Mount

// Hook is what may be run beside the command in its sandbox.
type Hook = sandbox.Hook

// Exit is how the command ended: by itself with Code, or by Signal (then Code is 128+Signal).
type Exit = sandbox.Exit

// Stdio are the files that the command gets as its standard input, output and error. Nil: /dev/null. They stay the
// caller's.
type Stdio struct {
	In, Out, Err *os.File
	// Tee, if set, gets a copy of what the command writes, in the order in which it is written to either of its outputs; it must
	// not wait, nor keep the bytes. The command then has a terminal of its own where the caller has one, and a pipe
	// where he has a pipe or a file. Where both outputs are one file, all counts as standard output.
	Tee func(stderr bool, p []byte)
}

// Entry is a command that is to run in a sandbox beside the one that it was made for.
type Entry = sandbox.Entry

// Process is a command that runs in a sandbox. Its methods are safe for concurrent use.
//
// Unless OwnTerminal, the command is in the caller's process group: what a terminal sends (Ctrl-C, Ctrl-Z, hang-up)
// reaches it without the caller. When the caller dies, the command and all it started get SIGTERM, and 10 s later SIGKILL.
type Process struct {
	cmd *exec.Cmd // the sandbox's first process; nil: not ours, the command came in by the door
	ctl *sandbox.Control
	pid atomic.Int64

	turns    chan Turn // nil: the command cannot be started again
	plumbing *plumbing
	hooks    sync.Mutex    // one at a time
	hooked   chan error    // how a hook ended
	ended    chan struct{} // closed once exit and err are set
	exit     Exit
	err      error
}

// Turn is what became of a command that may be started again: it runs (Pid), it has ended by itself or was ended (Exit), or
// it could not be started (Err). The sandbox stays in each case.
type Turn struct {
	Pid  int
	Exit *Exit
	Err  error
}

// turnsKept is how many turns wait for the caller: one order to restart makes two at most.
const turnsKept = 8

// Start makes the sandbox, waits until the daemon has taken it over, and starts the command. ctx bounds the start only;
// when it ends earlier nothing is left. The caller must call Wait.
func Start(ctx context.Context, spec Spec, stdio Stdio) (*Process, error) {
	pl, held, err := plumbHeld(stdio)
	if err != nil {
		return nil, err
	}
	spec.Terminal = pl.terminal != nil
	cmd, ctl, err := sandbox.Start(spec, pl.in, pl.out, pl.err, held...)
	if err != nil {
		pl.abandon()
		return nil, err
	}
	p := &Process{cmd: cmd, ctl: ctl, plumbing: pl}
	if spec.Restarts {
		p.turns = make(chan Turn, turnsKept)
	}
	return p.begin(ctx, "start the sandbox", func(err error) error {
		return fmt.Errorf("start the sandbox: its first process ended: %w", err)
	})
}

// plumbHeld is plumb, with doubles of our ends for the sandbox to hold.
func plumbHeld(stdio Stdio) (*plumbing, []*os.File, error) {
	pl, err := plumb(stdio)
	if err != nil {
		return nil, nil, err
	}
	held, err := pl.held()
	if err != nil {
		pl.abandon()
		return nil, nil, err
	}
	return pl, held, nil
}

// begin waits until the command has started, and watches it from then on. doing is what ctx's end cuts short, gone makes
// the error for where the other end of ctl has ended without a word. When begin fails, nothing is left of cmd, ctl and plumbing.
func (p *Process) begin(ctx context.Context, doing string, gone func(error) error) (*Process, error) {
	p.hooked, p.ended = make(chan error, 1), make(chan struct{})
	// Closing the socket is the sign to give up.
	stop := context.AfterFunc(ctx, func() { _ = p.ctl.Close() })
	var r sandbox.Report
	err := p.ctl.Receive(&r)
	switch stopped := stop(); {
	case !stopped:
		err = fmt.Errorf("%s: %w", doing, ctx.Err())
	case err != nil:
		err = gone(err)
	case r.Failed != "":
		err = errors.New(r.Failed)
	default:
		p.pid.Store(int64(r.Started))
		p.plumbing.started(r.Started, p.letGo)
		go p.watch()
		return p, nil
	}
	_ = p.ctl.Close()
	if p.cmd != nil {
		_ = p.cmd.Wait()
	}
	p.plumbing.abandon()
	return nil, err
}

// ErrSandboxEnded says that a sandbox has ended, and with it the command that had come in by the door.
var ErrSandboxEnded = errors.New("the session has ended")

// Enter starts a command in a sandbox that stands already, by the path of its door; e.Terminal and e.Held are set here. It runs
// in a session of its own: what a terminal sends reaches it only where it has its own, else the caller passes it on by Signal. When the
// caller dies, the command and all that it started get SIGTERM, and 10 s later SIGKILL, and when the sandbox's own ends, SIGHUP
// before that. ctx bounds the start only. The caller must call Wait, whose error may be ErrSandboxEnded. Error: os.ErrNotExist or
// syscall.ECONNREFUSED where there is no sandbox.
func Enter(ctx context.Context, door string, e Entry, stdio Stdio) (*Process, error) {
	stdio.Tee = nil
	if ownTerminal(stdio) {
		stdio.Tee = func(bool, []byte) {}
	}
	pl, held, err := plumbHeld(stdio)
	if err != nil {
		return nil, err
	}
	e.Terminal = pl.terminal != nil
	ctl, err := sandbox.Knock(door, e, pl.in, pl.out, pl.err, held...)
	if err != nil {
		pl.abandon()
		return nil, err
	}
	p := &Process{ctl: ctl, plumbing: pl}
	return p.begin(ctx, "enter the sandbox", func(error) error { return ErrSandboxEnded })
}

// letGo has the sandbox's first process close its copies of our ends of the command's pipes.
func (p *Process) letGo() { _ = p.ctl.Send(sandbox.Order{LetGo: true}) }

// OwnTerminal says that the command has a terminal of its own, shown on the caller's, which is raw meanwhile: lines that the
// caller writes to his must end with a carriage return too.
func (p *Process) OwnTerminal() bool { return p.plumbing.terminal != nil }

// Keys has the signals that the user has typed for the command at its own terminal: the command has got them. Nil where it has
// none, and they come to the caller as signals.
func (p *Process) Keys() <-chan os.Signal {
	if p.plumbing.terminal == nil {
		return nil
	}
	return p.plumbing.terminal.keys
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
		if r.Stopped != 0 && p.plumbing.terminal != nil {
			p.plumbing.terminal.stopped(p.Pid())
		}
		p.turned(r)
		if r.HookEnded {
			p.hooked <- hookError(r.HookError)
		}
	}
	var err error
	if p.cmd != nil {
		err = p.cmd.Wait()
	}
	p.plumbing.finish()
	_ = p.ctl.Close()
	var status *exec.ExitError
	switch {
	case exit != nil:
		p.exit = *exit
	case errors.As(err, &status):
		p.exit, p.err = lost(status)
	case p.cmd == nil:
		p.err = ErrSandboxEnded
	default:
		p.err = fmt.Errorf("wait for the sandbox: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
}

// turned notes that the command was started again, or waits for it. It waits for a caller who does not look.
func (p *Process) turned(r sandbox.Report) {
	var t Turn
	switch {
	case r.Started != 0:
		p.pid.Store(int64(r.Started))
		t.Pid = r.Started
	case r.Ended != nil:
		t.Exit = r.Ended
	case r.Failed != "":
		t.Err = errors.New(r.Failed)
	default:
		return
	}
	if p.plumbing.terminal != nil {
		p.plumbing.terminal.turned(t.Pid)
	}
	p.turns <- t
}

// Turns tells what becomes of a command with Spec.Restarts, but for its first start and its last end; nil for any other. The
// caller receives from it until Done.
func (p *Process) Turns() <-chan Turn { return p.turns }

// Restart ends a command with Spec.Restarts, if it runs, and starts it again in the same sandbox; Turns tells when. All that it
// started has grace between SIGTERM and SIGKILL. It returns os.ErrProcessDone when the sandbox has ended.
func (p *Process) Restart(grace time.Duration) error {
	return tell(p.ctl, p.ended, sandbox.Order{Restart: &sandbox.Restart{Grace: grace}})
}

// tell gives the sandbox's first process an order. It returns os.ErrProcessDone when that one has ended: then only does sending
// fail, by EPIPE, or by net.ErrClosed when we have seen it already.
func tell(ctl *sandbox.Control, ended <-chan struct{}, o sandbox.Order) error {
	select {
	case <-ended:
		return os.ErrProcessDone
	default:
	}
	if ctl.Send(o) != nil {
		return os.ErrProcessDone
	}
	return nil
}

// lost is the exit of a command whose sandbox ended first: by a signal, which ends the command too.
func lost(status *exec.ExitError) (Exit, error) {
	err := fmt.Errorf("the sandbox's first process ended before the command: %w", status)
	if ws, ok := status.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}, err
	}
	return Exit{Code: status.ExitCode()}, err
}

// Pid is the command's process id; of one that waits to be started again, the last.
func (p *Process) Pid() int { return int(p.pid.Load()) }

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
	return tell(p.ctl, p.ended, sandbox.Order{Signal: s})
}

// RunHook runs a hook in the sandbox and returns how it ended: a command that ended with another status than 0, or a request
// without an answer, is an error. It returns os.ErrProcessDone when the command ends first, which ends the hook.
func (p *Process) RunHook(h Hook) error {
	p.hooks.Lock()
	defer p.hooks.Unlock()
	if err := tell(p.ctl, p.ended, sandbox.Order{Hook: &h}); err != nil {
		return err
	}
	select {
	case err := <-p.hooked:
		return err
	case <-p.ended:
		return os.ErrProcessDone
	}
}

func hookError(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// InitMain is what the program does when its first argument is InitArg: be the first process of a sandbox. args are
// the arguments after InitArg. It returns the exit status of the program.
func InitMain(args []string) int {
	switch {
	case len(args) == 0:
		return sandbox.Init()
	case len(args) == 1 && args[0] == sandbox.DoorArg:
		return sandbox.Doorman()
	}
	return 2
}
