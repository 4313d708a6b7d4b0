package sandbox

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leftoverGrace is what processes get that the command left behind, between SIGTERM and SIGKILL.
	leftoverGrace = 5 * time.Second
	// orphanedGrace is what the command itself gets when the CLI has gone without a word.
	orphanedGrace = 10 * time.Second
	// killInterval is how often SIGKILL is repeated, for processes that were just being forked.
	killInterval = 50 * time.Millisecond
	// witnessAge is how long after a signal of the terminal the CLI's order to send the same one is taken for an echo of
	// it; witnessWait is how long a signal may take to reach us after it reached the CLI.
	witnessAge  = 500 * time.Millisecond
	witnessWait = 100 * time.Millisecond
)

// supervisor stays with the command until it and all that it started have ended.
type supervisor struct {
	spec   *Spec
	ctl    *Control
	orders <-chan Order // closed when the CLI is gone
	seen   <-chan os.Signal
	held   []*os.File // what the command writes to, see Start

	running bool     // the command's end is still to come
	last    Exit     // how it ended
	turning *turning // nil: the command goes on, or waits for its restart

	witnessed map[os.Signal]time.Time
	exited    chan syscall.WaitStatus // the command's end, once a start
	stopped   chan syscall.Signal     // the command was stopped by its terminal
	knocks    chan *net.UnixConn      // of those who want in
	hookExits chan syscall.WaitStatus // the hook's end
	hookDone  chan error              // how its request went

	mu        sync.Mutex    // held while a child is forked, so that its end finds it known
	child     int           // process id of the command
	hook      int           // process id of the hook that runs; 0: none
	doormen   map[int]bool  // process ids of those who let others in
	starts    int           // how many children were started
	reaping   bool          // there may be children
	childless chan struct{} // closed when no descendant is left
}

func newSupervisor(spec *Spec, child int, ctl *Control, orders <-chan Order, seen <-chan os.Signal, held []*os.File) *supervisor {
	s := &supervisor{
		spec: spec, ctl: ctl, orders: orders, seen: seen, held: held,
		hookExits: make(chan syscall.WaitStatus, 1), hookDone: make(chan error, 1),
		stopped:   make(chan syscall.Signal, 1),
		witnessed: map[os.Signal]time.Time{},
		exited:    make(chan syscall.WaitStatus, 1),
		childless: make(chan struct{}),
		knocks:    make(chan *net.UnixConn), doormen: map[int]bool{},
	}
	if s.holding() {
		close(s.childless)
		return s
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adoptLocked(child)
	return s
}

// holding says that there is no command, so that we end when we are told to.
func (s *supervisor) holding() bool { return len(s.spec.Argv) == 0 }

// adoptLocked notes that the command was started, and has its end waited for.
func (s *supervisor) adoptLocked(child int) {
	s.child, s.running = child, true
	s.awaitLocked()
}

// awaitLocked has the end of a child waited for that was just started.
func (s *supervisor) awaitLocked() {
	s.starts++
	if !s.reaping {
		s.reaping, s.childless = true, make(chan struct{})
		go s.reap(s.childless)
	}
}

// reap waits for children, the command and orphans of its tree, until there are none.
func (s *supervisor) reap(childless chan<- struct{}) {
	for {
		s.mu.Lock()
		starts := s.starts
		s.mu.Unlock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			if s.noMore(starts) {
				close(childless)
				return
			}
		case status.Stopped():
			if s.isCommand(pid) {
				s.noteStop(status.StopSignal())
			}
		case s.isCommand(pid):
			s.exited <- status
		case s.wasHook(pid):
			s.hookExits <- status
		default:
			s.hasLeft(pid)
		}
	}
}

// noMore ends reaping, unless a child was started meanwhile.
func (s *supervisor) noMore(starts int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reaping = s.starts != starts
	return !s.reaping
}

func (s *supervisor) isCommand(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return pid == s.child
}

// noteStop passes on that the terminal has stopped the command: whoever called it wants to know. SIGSTOP is somebody's who
// looks at the command.
func (s *supervisor) noteStop(sig syscall.Signal) {
	if sig != unix.SIGTSTP && sig != unix.SIGTTIN && sig != unix.SIGTTOU {
		return
	}
	select {
	case s.stopped <- sig:
	default:
	}
}

// run returns the exit status for our own process.
func (s *supervisor) run() int {
	for {
		select {
		case sig := <-s.seen:
			s.witnessed[sig] = time.Now()
		case sig := <-s.stopped:
			_ = s.ctl.Send(Report{Stopped: sig})
		case o, ok := <-s.orders:
			if !ok {
				s.drainHeld()
				s.endTree(orphanedGrace)
				if s.running {
					s.last = exitOf(<-s.exited)
				}
				return s.report()
			}
			if s.obey(o) {
				code := s.report()
				s.endTree(leftoverGrace)
				return code
			}
		case conn := <-s.knocks:
			s.letIn(conn)
		case status := <-s.hookExits:
			s.reportHook(exitError(status))
		case err := <-s.hookDone:
			s.reportHook(err)
		case status := <-s.exited:
			s.last, s.running = exitOf(status), false
			if !s.spec.Restarts {
				code := s.report()
				s.endTree(leftoverGrace)
				return code
			}
			if s.turning == nil {
				s.turn(leftoverGrace, false)
			}
		case <-s.turning.due():
			s.goOnTurning()
		}
	}
}

// obey does what the CLI orders; over says that this is the sandbox's end.
func (s *supervisor) obey(o Order) (over bool) {
	if o.LetGo {
		s.letGoHeld()
	}
	if o.Hook != nil {
		s.startHook(o.Hook)
	}
	if o.Restart != nil && s.spec.Restarts {
		s.restart(o.Restart.Grace)
	}
	if s.holding() {
		// Ctrl-C begins the end of a session that goes on for a while.
		return o.Signal != 0 && o.Signal != unix.SIGINT && o.Signal != unix.SIGQUIT
	}
	if o.Signal != 0 && !s.running && s.turning == nil {
		return true // nobody is left to get it
	}
	s.turning.cancel(o.Signal)
	s.forward(o.Signal)
	return false
}

// report tells the CLI how the command ended, and is the exit status for our own process.
func (s *supervisor) report() int {
	_ = s.ctl.Send(Report{Exit: &s.last})
	return s.last.Code
}

func exitOf(status syscall.WaitStatus) Exit {
	if status.Signaled() {
		return Exit{Code: 128 + int(status.Signal()), Signal: status.Signal()}
	}
	return Exit{Code: status.ExitStatus()}
}

// forward sends a signal of the CLI's to the command's tree and a hook's, unless the terminal has sent it to all of the process group,
// of which we are a witness.
func (s *supervisor) forward(sig syscall.Signal) {
	if sig == 0 || time.Since(s.witnessed[sig]) < witnessAge {
		return
	}
	if sig != unix.SIGKILL {
		wait := time.NewTimer(witnessWait)
		defer wait.Stop()
	waiting:
		for {
			select {
			case got := <-s.seen:
				s.witnessed[got] = time.Now()
				if got == sig {
					return
				}
			case <-wait.C:
				break waiting
			}
		}
	}
	for _, p := range s.commandTree(true) {
		_ = p.signal(sig)
	}
}

// endTree ends what is left of the tree: SIGTERM, and SIGKILL when grace is over or the CLI orders it.
func (s *supervisor) endTree(grace time.Duration) {
	s.hangUp()
	signalTree(unix.SIGTERM)
	signalTree(unix.SIGCONT) // a stopped process would not even see the SIGTERM
	over := time.NewTimer(grace)
	defer over.Stop()
	kill := (<-chan time.Time)(nil)
	tick := time.NewTicker(killInterval)
	defer tick.Stop()
	orders := s.orders
	for {
		select {
		case <-s.childless:
			return
		case o, ok := <-orders:
			if !ok {
				orders = nil
			} else if o.Signal == unix.SIGKILL {
				kill = tick.C
			}
		case <-over.C:
			kill = tick.C
		case <-kill:
			signalTree(unix.SIGKILL)
		case <-s.seen:
		}
	}
}

// signalTree sends sig to all our descendants. As we are their reaper, none of them escapes to another parent.
func signalTree(sig syscall.Signal) {
	for _, p := range descendants(os.Getpid()) {
		_ = p.signal(sig)
	}
}
