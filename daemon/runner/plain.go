package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
)

// Plain is a command that runs as our own child where there is nothing that could stand between: on systems other than Linux.
// (There a Spec that is Plain has a first process all the same, which outlives us and ends what the command has left
// behind.) Its methods are those of Process.
type Plain struct {
	cmd   *exec.Cmd
	spec  Spec
	group *group
	hooks sync.Mutex // one at a time
	ended chan struct{}
	exit  Exit
	err   error
}

// lastOutput is how long what the command has written may take to come out of its pipes once it has ended.
const lastOutput = 2 * time.Second

// StartPlain starts the command of spec, whose other parts count for nothing, as our child. Where an output is a terminal the
// command has that terminal, and stdio.Tee gets no copy of it; otherwise it has a pipe. The caller must call Wait.
func StartPlain(ctx context.Context, spec Spec, stdio Stdio) (*Plain, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(spec.Argv) == 0 {
		return nil, errors.New("no command to run")
	}
	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...) //nolint:gosec // what the user wants to run
	cmd.Dir, cmd.Env, cmd.WaitDelay = spec.Dir, spec.Env, lastOutput
	if stdio.In != nil {
		cmd.Stdin = stdio.In
	}
	cmd.Stdout = output(stdio.Out, false, stdio.Tee)
	cmd.Stderr = output(stdio.Err, true, stdio.Tee)
	g, err := newGroup(cmd, isTerminalFile(stdio.In))
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		g.close()
		return nil, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	if err := g.started(cmd.Process); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		g.close()
		return nil, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	p := &Plain{cmd: cmd, spec: spec, group: g, ended: make(chan struct{})}
	go p.watch()
	return p, nil
}

// output is what the command writes to. A nil *os.File in the interface would not be nil.
func output(to *os.File, stderr bool, tee func(bool, []byte)) io.Writer {
	switch {
	case to == nil:
		return nil
	case tee == nil, isTerminalFile(to):
		return to
	}
	return teeing{to: to, stderr: stderr, tee: tee}
}

// teeing writes to a file and tells what.
type teeing struct {
	to     *os.File
	stderr bool
	tee    func(stderr bool, p []byte)
}

// Write implements io.Writer.
func (t teeing) Write(p []byte) (int, error) {
	n, err := t.to.Write(p)
	t.tee(t.stderr, p[:n])
	return n, err
}

// isTerminalFile says whether a file is a terminal or a console.
func isTerminalFile(f *os.File) bool {
	if f == nil {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// watch waits for the end of the command and ends what it has left behind.
func (p *Plain) watch() {
	defer close(p.ended)
	err := p.cmd.Wait()
	p.group.end()
	var status *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
	case errors.As(err, &status):
	default:
		p.err = fmt.Errorf("wait for the command: %w", err)
		return
	}
	p.exit = exitOf(p.cmd.ProcessState)
}

// Pid is the command's process id.
func (p *Plain) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the command and what it left behind have ended.
func (p *Plain) Done() <-chan struct{} { return p.ended }

// Wait waits until the command and what it left behind have ended. It may be called many times.
func (p *Plain) Wait() (Exit, error) {
	<-p.ended
	return p.exit, p.err
}

// Keys is nil: what is typed comes to the caller, as signals.
func (p *Plain) Keys() <-chan os.Signal { return nil }

// OwnTerminal is false: the command is on the caller's.
func (p *Plain) OwnTerminal() bool { return false }

// Signal sends a signal to the command, and to what it has started as far as the system has a way to. It returns
// os.ErrProcessDone when all have ended.
func (p *Plain) Signal(sig os.Signal) error {
	select {
	case <-p.ended:
		return os.ErrProcessDone
	default:
		return p.group.signal(sig)
	}
}

// RunHook runs a hook beside the command, as Process does.
func (p *Plain) RunHook(h Hook) error {
	p.hooks.Lock()
	defer p.hooks.Unlock()
	done := make(chan error, 1)
	if len(h.Argv) == 0 {
		go func() { done <- sandbox.Request(&h) }() // ends with the request
	} else {
		cmd := exec.Command(h.Argv[0], h.Argv[1:]...) //nolint:gosec // the container's own hook
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.spec.Dir, p.spec.Env, p.cmd.Stderr, p.cmd.Stderr
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start %s: %w", strings.Join(h.Argv, " "), err)
		}
		go func() { done <- cmd.Wait() }() // ends with the hook
		defer func() { _ = cmd.Process.Kill() }()
	}
	select {
	case err := <-done:
		return err
	case <-p.ended:
		return os.ErrProcessDone
	}
}
