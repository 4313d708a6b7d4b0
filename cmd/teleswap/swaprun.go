package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/cmd/teleswap/internal/changes"
	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/runner"
)

// wishes are the parts of a swap that the daemon need not know.
type wishes struct {
	env environment
	// root is where the command's / is seen again; empty: nowhere.
	root string
	// podLogs has the command's output in the log of the agent's pod, too.
	podLogs bool
	// hooks has the container's lifecycle hooks run in the command's sandbox.
	hooks bool
	// container has the command run by docker; nil: it is a process of this machine.
	container *container
	// watch has the command started again when files change.
	watch watchFlags
	// attach says how a debugger is attached; empty: none is to be.
	attach []string
	// hold has no command run: the user starts the process himself.
	hold bool
	// exposes is the name of the Service, where the swap is nothing but one; empty: it is a swap.
	exposes string
	// connect says that nobody's place is taken.
	connect bool
	// up is the `teleswap up` that the swap belongs to; nil: none.
	up *overseer
}

// sessionStream is the way to and from the daemon.
type sessionStream interface {
	Send(up *api.SwapUp) error
	Recv() (*api.Event, error)
	CloseSend() error
}

// swapping is one swap as the command sees it: events of the session, signals, and the
// child. Its loop is the only goroutine that touches it.
type swapping struct {
	app    *app
	ui     *progress
	client *api.Client
	logs   *podLogs // nil: the output stays here, or there is none yet
	stream sessionStream
	req    *api.SwapRequest
	wishes wishes

	child     child
	sources   *changes.Watcher // nil: they are not watched
	received  chan received    // the session's events
	begun     os.Signal        // the first signal that ended the swap
	late      bool             // it came when the process had ended by itself
	hookErr   error            // why postStart failed
	active    bool             // the process stood in the target's place
	done      *api.Done
	broken    error      // the daemon went away
	rescue    chan error // how starting a new daemon went; nil: none was needed
	rescued   error
	sessionID string
}

type received struct {
	event *api.Event
	err   error
}

// swap runs a swap from its request to its exit status.
func (a *app) swap(ctx context.Context, req *api.SwapRequest, w wishes) error {
	return a.attend(ctx, req, w, func(ctx context.Context, c *api.Client) (sessionStream, error) {
		stream, err := c.Swap(ctx)
		if err != nil {
			return nil, err
		}
		return stream, stream.Send(&api.SwapUp{Message: &api.SwapUp_Request{Request: req}})
	})
}

// attend runs a session, which open begins, to its exit status.
func (a *app) attend(ctx context.Context, req *api.SwapRequest, w wishes, open func(context.Context, *api.Client) (sessionStream, error)) (err error) {
	defer func() { w.up.end(err) }()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	w.up.follow(signals)

	sources, err := w.watch.open(ctx)
	if err != nil {
		return err
	}
	defer closeQuietly(sources)
	c, err := a.dialInterruptibly(ctx, signals)
	if err != nil {
		return err
	}
	defer closeQuietly(c)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, c)
	if err != nil {
		return callError(err)
	}
	s := &swapping{app: a, ui: newProgress(a.err), client: c, stream: stream, req: req, wishes: w, sources: sources, received: make(chan received), child: newChild()}
	s.ui.up, s.ui.brief = w.up, w.connect
	receiving := make(chan struct{})
	go func() { // ends with the stream, or with ctx
		defer close(receiving)
		receiveLoop(ctx, s.stream, s.received)
	}()
	s.loop(ctx, signals)
	s.ui.stop()
	s.logs.end()
	cancel()
	<-receiving
	return s.verdict()
}

// dialInterruptibly is dial, which may wait for what a dead daemon has left.
func (a *app) dialInterruptibly(ctx context.Context, signals <-chan os.Signal) (*api.Client, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dialled, watched := make(chan struct{}), make(chan struct{})
	go func() { // ends when dialling has
		defer close(watched)
		select {
		case sig := <-signals:
			cancel(&exitError{status: signalStatus(sig)})
		case <-dialled:
		}
	}()
	c, err := a.dial(ctx)
	close(dialled)
	<-watched
	if ctx.Err() != nil {
		if c != nil {
			closeQuietly(c)
		}
		return nil, context.Cause(ctx)
	}
	return c, err
}

// receiveLoop passes on what the daemon says; it ends with the stream or with ctx.
func receiveLoop(ctx context.Context, from interface{ Recv() (*api.Event, error) }, to chan<- received) {
	for {
		e, err := from.Recv()
		select {
		case to <- received{e, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// loop ends when the session and the child have both ended.
func (s *swapping) loop(ctx context.Context, signals <-chan os.Signal) {
	for s.done == nil && s.broken == nil || s.child.alive() || s.rescue != nil {
		select {
		case r := <-s.received:
			if r.err != nil {
				s.lostDaemon(ctx, r.err)
				continue
			}
			s.event(ctx, r.event)
		case sig := <-signals:
			s.signal(sig, false)
		case sig := <-s.child.keys:
			s.signal(sig, true)
		case st := <-s.child.started:
			s.childStarted(st)
		case ex := <-s.child.exited:
			s.childExited(ex)
		case names := <-s.sources.Bursts():
			s.sourcesChanged(names)
		case err := <-s.sources.Errors():
			s.ui.line("! %v", err)
		case turn := <-s.child.turns:
			s.childTurned(turn)
		case r := <-s.child.hooked:
			s.hookEnded(r)
		case s.rescued = <-s.rescue:
			s.rescue = nil
		case <-s.child.timer.C:
			s.child.nextRung(s.ui)
		}
	}
}

func (s *swapping) event(ctx context.Context, e *api.Event) {
	s.sessionID = e.GetSession()
	switch m := e.GetEvent().(type) {
	case *api.Event_Prepare:
		if s.wishes.connect {
			s.connectedLine()
		}
		s.ui.share()
		s.child.hooks = s.wantedHooks(m.Prepare)
		if s.wishes.podLogs {
			s.logs = startPodLogs(ctx, s.client, e.GetSession(), s.ui)
		}
		s.child.start(ctx, s.starter(e.GetSession(), m.Prepare), s.childStreams(), s.logs.tee())
	case *api.Event_Active:
		s.active = true
		s.ui.up.stage(stageSwapped)
		if !s.wishes.connect {
			s.activeLine(m.Active)
		}
		for _, line := range s.wishes.attach {
			s.ui.line("%s", line)
		}
	case *api.Event_MayRestart:
		s.restartNow()
	case *api.Event_StopChild:
		s.stopChild(m.StopChild)
	case *api.Event_Done:
		s.done = m.Done
		if err := s.stream.CloseSend(); err != nil {
			s.ui.line("! the daemon did not take the last word: %s", api.Text(err))
		}
	default:
		s.ui.event(e)
	}
}

// send tells the daemon; where it is gone, receiving says so.
func (s *swapping) send(up *api.SwapUp) { _ = s.stream.Send(up) }

// signal is what the user or the system wants of the swap. childHas says that the process has got it already.
func (s *swapping) signal(sig os.Signal, childHas bool) {
	again := s.begun != nil
	if !again {
		s.begun, s.late = sig, s.child.everRan() && !s.child.alive()
		s.send(&api.SwapUp{Message: &api.SwapUp_End{End: &api.End{Reason: signalText(sig)}}})
	}
	// Who holds a swap has no process for keys: it stands until the target is back.
	fromKeyboard := (sig == os.Interrupt || sig == syscall.SIGQUIT) && !s.wishes.hold
	switch {
	case s.child.running() && !again && fromKeyboard:
		s.child.interrupt(sig, childHas && !s.child.paused, s.ui)
	case s.child.running() && again:
		s.child.nextRung(s.ui)
	case s.child.starting():
		s.child.giveUp()
	case again && s.done == nil:
		s.ui.line("restoring; the daemon goes on with it if you kill me")
	}
}

func (s *swapping) childStarted(st startResult) {
	s.child.take(st)
	if st.err != nil {
		s.send(&api.SwapUp{Message: &api.SwapUp_ChildExited{ChildExited: &api.ChildExited{Error: st.err.Error()}}})
		return
	}
	switch {
	case s.begun != nil || s.broken != nil || s.child.told: // it came up after all
		s.tellStarted()
		s.child.terminate(s.ui, s.child.toldGrace)
	case s.child.hooks.postStart != nil: // as in the pod: it counts as started when its hook has ended
		s.child.runHook(s.child.hooks.postStart, true)
	default:
		s.tellStarted()
	}
}

func (s *swapping) tellStarted() {
	if s.wishes.hold {
		s.heldLine()
	}
	s.send(&api.SwapUp{Message: &api.SwapUp_ChildStarted{ChildStarted: &api.ChildStarted{Pid: int64(s.child.process.Pid())}}})
}

// stopChild ends the process because the session does, or because its pod was told to end.
func (s *swapping) stopChild(m *api.StopChild) {
	grace := time.Duration(m.GetGraceMilliseconds()) * time.Millisecond
	if grace > 0 {
		s.ui.line("! %s; the process has %s to end", m.GetReason(), short(grace))
	}
	s.child.terminate(s.ui, grace)
}

func (s *swapping) childExited(ex exitResult) {
	s.child.ended(ex)
	s.logs.close()
	s.send(&api.SwapUp{Message: &api.SwapUp_ChildExited{ChildExited: &api.ChildExited{
		Code: int32(ex.exit.Code), Signal: int32(ex.exit.Signal),
	}}})
}

// lostDaemon ends the child, whose network died with the daemon, and starts a new
// daemon, which restores what the dead one has left.
func (s *swapping) lostDaemon(ctx context.Context, err error) {
	if s.done != nil {
		return
	}
	s.broken = err
	if !api.Broken(err) { // it answered: the swap was refused
		return
	}
	s.ui.problem("the daemon died; ending the process and restoring by a new daemon")
	s.child.terminate(s.ui, 0)
	s.rescue = make(chan error, 1)
	rescue := s.rescue
	go func() { // ends with the start of the daemon, which is bounded
		c, err := s.app.dial(ctx)
		if err == nil {
			err = c.Close()
		}
		rescue <- err
	}()
}

// verdict prints the end and makes the exit status.
func (s *swapping) verdict() error {
	if s.broken != nil && s.done == nil {
		return s.afterDaemon()
	}
	d := s.done
	switch {
	case !d.GetRestored() || d.GetUnchanged():
	case s.wishes.exposes != "":
		s.ui.line("the Service %s is gone, as before", s.wishes.exposes)
	case s.req.GetNew():
		s.ui.line("restored: %s is gone, as before", d.GetTarget())
	default:
		s.ui.line("restored: %s is as it was", d.GetTarget())
	}
	if !s.wishes.connect && s.child.everRan() && !s.active && (s.begun == nil || s.late) && d.GetError() == "" {
		s.ui.line("! the process ended before it took the target's place (exit status %d)", s.child.exit.Code)
	}
	interrupted := s.begun != nil && !s.active && !s.late
	switch {
	case s.hookErr != nil:
		return fmt.Errorf("the postStart hook failed: %w", s.hookErr)
	case interrupted && d.GetRestored():
		return &exitError{status: signalStatus(s.begun)}
	case d.GetUsage():
		return usage("%s", d.GetError())
	case d.GetError() != "":
		return errors.New(d.GetError())
	case s.begun == nil && !s.child.everRan():
		return fmt.Errorf("the session ended before the process began: %s", d.GetReason())
	case s.child.everRan() && s.child.exit.Code != 0:
		return &exitError{status: s.child.exit.Code}
	case s.child.waitErr != nil:
		return fmt.Errorf("wait for the process: %w", s.child.waitErr)
	}
	return nil
}

// afterDaemon is the verdict where the daemon did not live to give one.
func (s *swapping) afterDaemon() error {
	switch {
	case !api.Broken(s.broken):
		return callError(s.broken)
	case s.rescued != nil && s.wishes.connect:
		return fmt.Errorf("the daemon died, and no new one could be started: %w", s.rescued)
	case s.rescued != nil:
		return fmt.Errorf("the daemon died during the swap and no new one could be started: %w\n"+
			"the ledger is kept: `teleswap restore` gives %s back", s.rescued, s.req.GetName())
	}
	what := "swap"
	if s.wishes.connect {
		what = "connect"
	}
	return fmt.Errorf("the daemon died during the %s; its log: %s", what, s.app.paths.Log)
}

// signalText names a signal in an ending's reason.
func signalText(sig os.Signal) string {
	if sig == os.Interrupt {
		return "Ctrl-C"
	}
	if n, ok := sig.(syscall.Signal); ok {
		return "signal " + n.String()
	}
	return sig.String()
}

func signalStatus(sig os.Signal) int {
	if n, ok := sig.(syscall.Signal); ok {
		return statusSignal + int(n)
	}
	return statusFailure
}

// starter makes, when it is called, the sandbox for a session's process, and starts it. It may be called from another
// goroutine.
func (s *swapping) starter(session string, p *api.Prepare) starter {
	warn := func(format string, args ...any) { s.ui.line("! "+format, args...) }
	command, local := s.req.GetCommand(), os.Environ()
	if s.wishes.container != nil {
		local = nil // the container has its image's
	}
	return func(ctx context.Context, stdio runner.Stdio) (process, error) {
		spec, err := makeSpec(session, p, command, func(pod []string) ([]string, error) {
			env := s.wishes.env
			if p.GetNoSandbox() {
				say := s.ui.line
				if s.wishes.exposes != "" { // there is no process to tell it to
					say = func(string, ...any) {}
				}
				env = env.withPlain(p, local, pod, say)
			}
			return env.plan(local, pod, command, warn)
		})
		if err != nil {
			return nil, err
		}
		spec.Root, spec.Restarts = s.wishes.root, s.sources != nil
		if c := s.wishes.container; c != nil {
			return c.start(ctx, spec, stdio)
		}
		spec.Door = s.app.paths.Door(session)
		return startProcess(ctx, spec, stdio)
	}
}
