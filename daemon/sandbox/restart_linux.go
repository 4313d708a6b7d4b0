package sandbox

import (
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// turnEvery is how often it is looked whether all of an old command has ended, once its first process has. It reads the
// whole process table.
const turnEvery = 25 * time.Millisecond

// turning is the time between an old command, which is being ended, and the next.
type turning struct {
	again  bool // the command is to be started again at once
	killAt time.Time
	tick   *time.Ticker
}

// due is when to go on; never, for nil.
func (t *turning) due() <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.tick.C
}

// cancel lets a signal that ends the command end its restart, too.
func (t *turning) cancel(sig syscall.Signal) {
	if t != nil && slices.Contains([]syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGKILL}, sig) {
		t.again = false
	}
}

// restart ends the command, if it runs, and starts it again.
func (s *supervisor) restart(grace time.Duration) {
	if s.turning != nil { // it is being ended already
		s.turning.again = true
		return
	}
	s.turn(grace, true)
}

// turn begins to end what there is of the command.
func (s *supervisor) turn(grace time.Duration, again bool) {
	s.turning = &turning{again: again, killAt: time.Now().Add(grace), tick: time.NewTicker(turnEvery)}
	for _, p := range s.commandTree(false) {
		_ = p.signal(unix.SIGTERM)
		_ = p.signal(unix.SIGCONT) // a stopped process would not even see the SIGTERM
	}
	s.goOnTurning()
}

// goOnTurning starts the next command when all of the old one has ended, and insists on that when its grace is over.
func (s *supervisor) goOnTurning() {
	late := time.Now().After(s.turning.killAt)
	if s.running && !late {
		return
	}
	tree := s.commandTree(false)
	if late {
		for _, p := range tree {
			_ = p.signal(unix.SIGKILL)
		}
	}
	if s.running || len(tree) > 0 {
		return
	}
	again := s.turning.again
	s.turning.tick.Stop()
	s.turning = nil
	if !again {
		last := s.last
		_ = s.ctl.Send(Report{Ended: &last})
		return
	}
	pid, err := s.startAgain()
	if err != nil {
		s.last = Exit{Code: statusNotStarted}
		_ = s.ctl.Send(Report{Failed: err.Error()})
		return
	}
	_ = s.ctl.Send(Report{Started: pid})
}

// statusNotStarted is the exit status of a command that could not be started again, as a shell has it.
const statusNotStarted = 127

// startAgain starts the command on the thread that started it the first time.
func (s *supervisor) startAgain() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := startCommand(s.spec)
	if err != nil {
		return 0, err
	}
	s.adoptLocked(pid)
	return pid, nil
}

// commandTree is what there is of the command: all our descendants but who came in by the door, and, unless wanted, a hook.
func (s *supervisor) commandTree(hook bool) []process {
	s.mu.Lock()
	not := maps.Clone(s.doormen)
	if !hook {
		not[s.hook] = true
	}
	s.mu.Unlock()
	var tree []process
	for _, p := range descendants(os.Getpid()) { // parents first
		if not[p.pid] || not[p.parent] {
			not[p.pid] = true
			continue
		}
		tree = append(tree, p)
	}
	return tree
}
