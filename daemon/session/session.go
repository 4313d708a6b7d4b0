package session

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/restart"
)

// Request asks for a swap, or a connect.
type Request struct {
	Connection json.RawMessage // of kube.Connection
	Ref        kube.Ref
	Image      string
	PullPolicy string
	PID        int      // of the command
	Command    []string // what will run
	Publish    []Publish
	// InContainer says that it runs in a container, whose keeper hands the sandbox over.
	InContainer bool
	// ContainerName is what the user calls it; empty: after the session.
	ContainerName string
	Also          *Also // nil: nothing
	NoVolumes     bool
	// Plain has the command run without a sandbox, in the laptop's own network.
	Plain bool
	Watch bool // the command may be restarted
	// Hold says that there is no command: whatever listens in the sandbox, or else on the laptop, is the process.
	Hold bool
	// Connect has nobody's place taken: the command, or Use, gets a connection to the namespace. Of the fields above
	// Connection, Image, PullPolicy, PID, Command, InContainer, ContainerName, Also and Plain count.
	Connect bool
	// Use is what is done with the connection; nil: the command runs in it.
	Use Use
}

// Session is one swap or one connect. Its methods are safe for concurrent use.
type Session struct {
	id  string
	cfg Config
	req Request
	log *slog.Logger
	// restored is closed when another session that is being restored has ended; nil
	// for a session that is not, or is not known.
	restored func(id string) <-chan struct{}
	// publisherOf is the session that has published what cannot be had; empty: none has.
	publisherOf func(p Publish) string

	// ended is closed with the first ending, childGone when the child has ended (or
	// will never start), childUp when it runs, done when Run has returned.
	ended, childGone, childUp, done chan struct{}
	// quitting is closed when the daemon wants to go; retry wakes a stuck session.
	quitting chan struct{}
	retry    chan struct{}

	// gate holds connections while the process is restarted; nil: it never is.
	gate *restart.Gate

	// attending are the goroutines that end with the session.
	attending sync.WaitGroup

	mu        sync.Mutex
	state     State
	since     time.Time
	target    string
	namespace string
	context   string
	steps     []Step
	problem   string
	retryConn json.RawMessage
	transport string
	agentPod  string
	childPID  int
	ports     []kube.PortMap
	published []Publish
	meter     meter // nil: there is no way to an agent
	link      Link  // nil: not dialled, or closed
	why       ending
	outcome   Outcome
	watchers  map[*watcher]struct{}
}

// ending is why a session ends.
type ending struct {
	reason string
	err    error // what went wrong; nil when it ended as asked
	asked  bool  // by the owner
}

func newSession(id string, cfg Config, req Request) *Session {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Session{
		id: id, cfg: cfg, req: req, log: log.With("session", id),
		ended: make(chan struct{}), childGone: make(chan struct{}), childUp: make(chan struct{}), done: make(chan struct{}),
		quitting: make(chan struct{}), retry: make(chan struct{}, 1),
		restored:    func(string) <-chan struct{} { return nil },
		publisherOf: func(Publish) string { return "" },
		since:       cfg.Now(), watchers: map[*watcher]struct{}{},
		target: asNamed(req),
	}
	if req.Watch {
		s.gate = restart.New()
	}
	return s
}

// asNamed is the target until it has been found.
func asNamed(req Request) string {
	ref := req.Ref
	if req.Connect {
		return connectName(req.Use)
	}
	if k, known := kube.ParseKind(ref.Kind); known {
		return kube.Object{Kind: k, Name: ref.Name}.String()
	}
	return ref.Name
}

// idAlphabet has no letters that are mistaken for digits, nor vowels that make words.
const idAlphabet = "23456789bcdfghjkmnpqrstvwxz"

// newID is a session's name: six characters, some 380 million of them.
func newID() string {
	id := make([]byte, 0, 6)
	var b [16]byte
	for len(id) < cap(id) {
		rand.Read(b[:]) // never fails
		for _, c := range b {
			// Whole multiples of the alphabet only, so that no letter is likelier.
			if int(c) < 256/len(idAlphabet)*len(idAlphabet) && len(id) < cap(id) {
				id = append(id, idAlphabet[int(c)%len(idAlphabet)])
			}
		}
	}
	return string(id)
}

// ID is the session's name.
func (s *Session) ID() string { return s.id }

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.done }

// Outcome is how the session ended; valid once Done is closed.
func (s *Session) Outcome() Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcome
}

// ChildStarted tells that the user's process runs, also after ChildRestarting.
func (s *Session) ChildStarted(pid int) {
	s.gate.Started()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.childPID = pid
	closeOnce(s.childUp)
}

// ChildRestarting tells that the user's process is to be started again. It returns when it may be ended, see restart.Gate, and
// the watchers are told then.
func (s *Session) ChildRestarting(ctx context.Context) {
	s.gate.Hold(ctx)
	s.emit(MayRestart{})
}

// ChildExited tells that the user's process has ended, or (with err) never began.
func (s *Session) ChildExited(status string, err error) {
	s.mu.Lock()
	closeOnce(s.childGone)
	s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("start the process: %w", err)
	}
	s.end(ending{reason: "the process ended (" + status + ")", err: err})
}

// Leave ends the session: the cluster is restored while the process still serves, and
// then the owner is asked to end it. asked is true when it is the owner that leaves.
func (s *Session) Leave(reason string, asked bool) {
	s.end(ending{reason: reason, asked: asked})
}

// OwnerGone tells that the command has died, and its child with it.
func (s *Session) OwnerGone() {
	s.mu.Lock()
	closeOnce(s.childGone)
	s.mu.Unlock()
	s.end(ending{reason: "the teleswap command died", asked: true})
}

// Quit is Leave for a daemon that wants to go.
func (s *Session) Quit(reason string) {
	s.end(ending{reason: reason})
	s.mu.Lock()
	defer s.mu.Unlock()
	closeOnce(s.quitting)
}

// end keeps the first ending; it tells whether this is it.
func (s *Session) end(e ending) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return false
	default:
		s.why = e
		close(s.ended)
		return true
	}
}

func (s *Session) currentEnding() ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// closeOnce needs the lock of whoever owns the channel.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// become is the one way to change state.
func (s *Session) become(next State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == next {
		return
	}
	if !s.state.mayBecome(next) {
		s.log.Error("a transition that the diagram does not know", "from", s.state.String(), "to", next.String())
		return
	}
	s.log.Info("state", "from", s.state.String(), "to", next.String())
	s.state = next
}

func (s *Session) say(warning bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.log.Info("message", "text", text, "warning", warning)
	s.emit(Message{Warning: warning, Text: text})
}

// errEnded is the cause of a forward context that ended because the session did.
var errEnded = errors.New("the session ends")

// run is the session's life. ctx is the daemon's, which outlives restoring unless the
// daemon is given up on.
func (s *Session) run(ctx context.Context) {
	sw := &swap{}
	fwd, cancel := context.WithCancelCause(ctx)
	watching := make(chan struct{})
	go func() { // ends with the ending or with fwd
		defer close(watching)
		select {
		case <-s.ended:
			cancel(errEnded)
		case <-fwd.Done():
		}
	}()
	if err := s.forward(fwd, sw); err != nil {
		s.end(ending{reason: "a step failed", err: err})
	} else {
		s.become(Active)
		s.activated()
		select {
		case <-s.ended:
		case <-ctx.Done():
			s.end(ending{reason: "the daemon was ended", err: context.Cause(ctx)})
		}
	}
	cancel(errEnded)
	<-watching
	s.finish(ctx, sw)
}

// runOrphan restores what a dead process has left. entry is the session's from then on.
func (s *Session) runOrphan(ctx context.Context, entry Entry) {
	s.end(ending{reason: "its teleswap daemon died"})
	s.settle(ctx, entry.Record())
	s.finish(ctx, &swap{entry: entry, orphan: true})
}

// settle waits until what the dead process had asked of the API server is made, or given up. An undo that came before it would find
// nothing to take back. When it died is not known: some time after the record's last change.
func (s *Session) settle(ctx context.Context, rec ledger.Record) {
	age := s.cfg.Now().Sub(rec.Changed)
	if age < 0 || age >= longSince { // the clock was set, or it is long since
		return
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Retry has a stuck session try again at once, with another connection if conn is set.
func (s *Session) Retry(conn json.RawMessage) {
	s.mu.Lock()
	if len(conn) > 0 {
		s.retryConn = conn
	}
	s.mu.Unlock()
	select {
	case s.retry <- struct{}{}:
	default:
	}
}

// connection is what a restore uses: the user's latest word, else the record's.
func (s *Session) connection(rec ledger.Record) json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.retryConn) > 0:
		return s.retryConn
	case len(s.req.Connection) > 0:
		return s.req.Connection
	}
	return rec.Connection
}

// State is where the session stands.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Session) setProblem(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = text
}

// activated tells everybody that the session stands.
func (s *Session) activated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.emitLocked(Activated{Target: s.target, PID: s.childPID, Transport: s.transport, Published: s.published})
}
