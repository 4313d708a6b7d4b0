package session

import (
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
)

// Event is what a session tells whoever watches it.
type Event interface{ isEvent() }

// StepState is where one step stands.
type StepState int

// The states of a step.
const (
	StepStarted StepState = iota + 1
	StepDone
	StepFailed
)

// Step is the progress of one step, forwards or (Undo) backwards.
type Step struct {
	Name   string
	State  StepState
	Detail string
	Took   time.Duration
	Undo   bool
}

// Message is a line for the user.
type Message struct {
	Warning bool
	Text    string
}

// Prepare is what the command needs to make the sandbox. It holds the pod's
// environment: it goes to the session's owner alone, and into no log.
type Prepare struct {
	Token      string
	Hostname   string
	Addresses  []string // prefixes
	MTU        int
	ResolvConf []byte
	Hosts      []byte
	Env        [][]byte
	Mounts     []sandbox.Mount
	Hooks      Hooks
	// Plain says that there is to be no sandbox. Then of the above only Hostname, Env and Hooks are set, and these are: where
	// the pod's files are, and the address of the proxy into the cluster.
	Plain       bool
	Root, Proxy string
}

// Activated tells that the local process stands in the target's place.
type Activated struct {
	Target    string
	PID       int
	Transport string
	Published []Publish
}

// RestoreBegun tells that the session undoes what it did, and why.
type RestoreBegun struct{ Reason string }

// StopChild asks the owner to end its child: nobody calls it any more.
type StopChild struct {
	Reason string
	Grace  time.Duration // until SIGKILL; zero: the owner's own patience
}

// MayRestart tells the owner that its child, which is to be restarted, may be ended: nobody waits for its answer.
type MayRestart struct{}

// TryFailed tells that a try to restore failed; another one follows.
type TryFailed struct{ Err error }

// Outcome is how a session ended; its last event.
type Outcome struct {
	Target      string
	Err         error // nil: ended as asked
	Restored    bool  // nothing of the session is left in the cluster
	Unchanged   bool  // the session had changed nothing
	Interrupted bool  // ended by its owner before it was active
	Reason      string
}

func (Step) isEvent()         {}
func (Message) isEvent()      {}
func (Prepare) isEvent()      {}
func (Activated) isEvent()    {}
func (RestoreBegun) isEvent() {}
func (StopChild) isEvent()    {}
func (MayRestart) isEvent()   {}
func (TryFailed) isEvent()    {}
func (Outcome) isEvent()      {}

// watcher is one listener's queue. It is closed after the outcome.
type watcher struct {
	owner  bool
	events chan Event
}

// watcherQueue is far above what one session ever says before its end; a command that
// was stopped (Ctrl-Z) must not stop the session.
const watcherQueue = 512

// Watch returns the events of the session from now on, the outcome last, then the
// channel is closed. The owner is the command whose child stands in the target's
// place. The returned func ends the watching early.
func (s *Session) Watch(owner bool) (<-chan Event, func()) {
	w := &watcher{owner: owner, events: make(chan Event, watcherQueue)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Ended {
		w.events <- s.outcome
		close(w.events)
		return w.events, func() {}
	}
	s.watchers[w] = struct{}{}
	return w.events, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}
}

func (s *Session) emit(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.emitLocked(e)
}

func (s *Session) emitLocked(e Event) {
	toOwner := false
	switch e.(type) {
	case Prepare, StopChild, MayRestart:
		toOwner = true
	}
	for w := range s.watchers {
		if toOwner && !w.owner {
			continue
		}
		select {
		case w.events <- e:
		default:
			s.log.Warn("a watcher does not read its events; one was dropped")
		}
	}
}

func (s *Session) note(format string, args ...any) { s.say(false, format, args...) }
func (s *Session) warn(format string, args ...any) { s.say(true, format, args...) }
