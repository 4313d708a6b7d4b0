package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/runner"
)

// process is what runs in the target's place: *runner.Process, or a container.
type process interface {
	// Pid is the process's, as this machine knows it.
	Pid() int
	// Wait returns when the process and all that it left behind have ended.
	Wait() (runner.Exit, error)
	// Signal sends a signal; os.ErrProcessDone where nobody is left to get it.
	Signal(sig os.Signal) error
	// Keys has the signals typed at a terminal of the process's own; nil without one.
	Keys() <-chan os.Signal
	// RunHook runs a hook beside the process.
	RunHook(h runner.Hook) error
	// OwnTerminal says that the process has one, shown on ours.
	OwnTerminal() bool
	// Done is closed when Wait would return.
	Done() <-chan struct{}
}

// restarter is a process that can be started again where it is; see runner.Process.
type restarter interface {
	Restart(grace time.Duration) error
	Turns() <-chan runner.Turn
}

// child is the user's process, from the first try to start it to its exit status.
type child struct {
	started chan startResult
	exited  chan exitResult
	hooked  chan hookResult
	timer   *time.Timer // of the next rung
	hooks   hooks
	killAt  time.Time // when SIGKILL is due, while preStop runs

	cancelStart context.CancelFunc // not nil while it starts
	process     process            // not nil while it runs
	keys        <-chan os.Signal   // what is typed at a terminal of its own
	turns       <-chan runner.Turn // nil: it cannot be started again
	asked       bool               // the daemon was asked whether it may be restarted
	turning     bool               // a turn is due
	paused      bool               // it has ended, and waits to be started again
	told        bool               // it was told to end, maybe before it was known to run
	toldGrace   time.Duration      // what it gets then; 0: the usual
	changed     []string           // files that changed while a turn is due
	rung        rung
	ran         bool
	exit        runner.Exit
	waitErr     error
}

// starter starts a process; its ctx bounds the start only.
type starter func(ctx context.Context, stdio runner.Stdio) (process, error)

type startResult struct {
	process process
	err     error
}

type exitResult struct {
	exit runner.Exit
	err  error
}

// rung is how far the signals have gone.
type rung int

const (
	rungNone rung = iota
	rungPreStop
	rungInterrupted
	rungTerminated
	rungKilled
)

func newChild() child {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return child{started: make(chan startResult, 1), exited: make(chan exitResult, 1), hooked: make(chan hookResult, 2), timer: timer}
}

func (c *child) starting() bool { return c.cancelStart != nil }
func (c *child) running() bool  { return c.process != nil }
func (c *child) alive() bool    { return c.starting() || c.running() }
func (c *child) everRan() bool  { return c.ran }

// start begins to start the process; started will have the result. The goroutine ends
// with the start, which ctx and giveUp bound.
func (c *child) start(ctx context.Context, start starter, s streams, tee func(stderr bool, p []byte)) {
	ctx, cancel := context.WithCancel(ctx)
	c.cancelStart = cancel
	go func() {
		p, err := start(ctx, runner.Stdio{In: s.in, Out: s.out, Err: s.err, Tee: tee})
		c.started <- startResult{p, err}
	}()
}

// giveUp ends a start under way.
func (c *child) giveUp() {
	if c.cancelStart != nil {
		c.cancelStart()
	}
}

// take notes how a start went. The goroutine ends with the process.
func (c *child) take(st startResult) {
	c.cancelStart()
	c.cancelStart = nil
	if st.err != nil {
		return
	}
	c.process, c.ran = st.process, true
	c.keys = st.process.Keys()
	if r, can := st.process.(restarter); can {
		c.turns = r.Turns()
	}
	go func() {
		exit, err := st.process.Wait()
		c.exited <- exitResult{exit, err}
	}()
}

func (c *child) ended(ex exitResult) {
	c.timer.Stop()
	c.process, c.keys, c.turns, c.exit, c.waitErr = nil, nil, nil, ex.exit, ex.err
}

// interrupt is the first rung of Ctrl-C: what the terminal has not sent itself.
func (c *child) interrupt(sig os.Signal, has bool, ui *progress) {
	c.rung = rungInterrupted
	if !has {
		c.signal(sig, ui)
	}
	c.timer.Reset(termAfter)
}

// terminate is the first rung where nobody sits at a keyboard. grace is what the process gets until SIGKILL, its preStop hook
// included; 0: the usual. Of a process that is being started the start is given up, and told stays for the case that it
// succeeds all the same.
func (c *child) terminate(ui *progress, grace time.Duration) {
	c.giveUp()
	if !c.told {
		c.told, c.toldGrace = true, grace
	}
	if c.process == nil || c.rung != rungNone {
		return
	}
	if grace <= 0 {
		grace = killAfterTerm
	}
	c.timer.Reset(grace)
	if c.hooks.preStop != nil {
		c.rung, c.killAt = rungPreStop, time.Now().Add(grace)
		c.runHook(c.hooks.preStop, false)
		return
	}
	c.rung = rungTerminated
	c.signal(syscall.SIGTERM, ui)
}

// afterPreStop is terminate's second half.
func (c *child) afterPreStop(ui *progress) {
	if c.rung != rungPreStop {
		return
	}
	c.rung = rungTerminated
	c.signal(syscall.SIGTERM, ui)
	c.timer.Reset(max(time.Until(c.killAt), leastAfterHook))
}

// nextRung is taken when patience is over, or the user's is.
func (c *child) nextRung(ui *progress) {
	if c.process == nil {
		return
	}
	switch c.rung {
	case rungNone:
		c.rung = rungTerminated
		c.signal(syscall.SIGTERM, ui)
		c.timer.Reset(killAfterTerm)
	case rungPreStop:
		ui.line("the preStop hook does not end; sending SIGTERM")
		c.killAt = time.Now()
		c.afterPreStop(ui)
	case rungInterrupted:
		ui.line("the process does not end; sending SIGTERM")
		c.rung = rungTerminated
		c.signal(syscall.SIGTERM, ui)
		c.timer.Reset(killAfter)
	case rungTerminated:
		ui.line("the process does not end; sending SIGKILL")
		c.rung = rungKilled
		c.signal(syscall.SIGKILL, ui)
	case rungKilled:
	}
}

func (c *child) signal(sig os.Signal, ui *progress) {
	if err := c.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		ui.line("! the process could not be sent %s: %v", sig, err)
	}
}

// makeSpec is what runner.Start needs, of what the daemon told. plan makes the process's environment of the pod's.
func makeSpec(session string, p *api.Prepare, command []string, plan func(pod []string) ([]string, error)) (runner.Spec, error) {
	var spec runner.Spec
	dir, err := os.Getwd()
	if err != nil {
		return spec, fmt.Errorf("find the working directory: %w", err)
	}
	for _, text := range p.GetAddresses() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return spec, fmt.Errorf("the pod's address: %w", err)
		}
		spec.Addrs = append(spec.Addrs, prefix)
	}
	pod := make([]string, 0, len(p.GetEnv()))
	for _, kv := range p.GetEnv() {
		pod = append(pod, string(kv))
	}
	if spec.Env, err = plan(pod); err != nil {
		return spec, err
	}
	spec.Session, spec.Token, spec.Handoff = session, p.GetToken(), p.GetHandoff()
	spec.Hostname, spec.MTU = p.GetHostname(), int(p.GetMtu())
	spec.ResolvConf, spec.Hosts = p.GetResolvConf(), p.GetHosts()
	for _, m := range p.GetMounts() {
		spec.Mounts = append(spec.Mounts, runner.Mount{
			Path: m.GetPath(), Live: m.GetLive(), ReadOnly: m.GetReadOnly(), File: m.GetFile(),
		})
	}
	spec.Dir, spec.Argv = dir, command
	spec.Plain = p.GetNoSandbox()
	return spec, nil
}
