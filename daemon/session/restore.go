package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/teleswap/teleswap/daemon/ledger"
)

const (
	firstRetry = 500 * time.Millisecond
	maxRetry   = 30 * time.Second
	// quitTries is how often a daemon that wants to go tries before it leaves the rest
	// to the ledger.
	quitTries = 2
	// childPatience is how long the owner may take to end its child: its own ladder of
	// signals takes 15 s.
	childPatience = 30 * time.Second
	// holdTimeout bounds what the restore waits for an agent that may be out of reach.
	holdTimeout = time.Second
	// relinkTimeout bounds what is done for connections that wait at a dead daemon's
	// agent before its target comes back.
	relinkTimeout = 5 * time.Second
)

// finish is the second half of every session: restore, then let go of the process.
func (s *Session) finish(ctx context.Context, sw *swap) {
	e := s.currentEnding()
	active := s.State() == Active
	s.become(Restoring)
	s.log.Info("session ends", "reason", e.reason, "error", e.err)
	out := Outcome{Err: e.err, Restored: true, Unchanged: sw.entry == nil, Interrupted: e.asked && !active, Reason: e.reason}
	if sw.entry != nil {
		s.emit(RestoreBegun{Reason: e.reason})
		attended := s.attendChild(ctx, sw, e.reason)
		err := s.restore(ctx, sw)
		attended()
		if err != nil {
			out.Restored = false
			out.Err = errors.Join(out.Err, err)
			s.become(Stuck)
		}
	}
	s.letGo(ctx, sw, e.reason)
	s.attending.Wait()
	s.mu.Lock()
	out.Target = s.target
	s.mu.Unlock()
	s.become(Ended)
	s.close(out)
}

// close tells the outcome and ends all watching.
func (s *Session) close(out Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcome = out
	s.emitLocked(out)
	for w := range s.watchers {
		close(w.events)
		delete(s.watchers, w)
	}
	close(s.done)
}

// attendChild does, while the session is being restored, what depends on the child:
// once it is gone the agent holds connections until the originals can take them, and
// once the agent gets nothing new any more the child may go, with the connections that
// it keeps open for callers who have moved on. The returned func ends it.
func (s *Session) attendChild(ctx context.Context, sw *swap, reason string) func() {
	if sw.link == nil || !sw.prepared {
		return func() {}
	}
	link, ready, hold := sw.link, sw.ready, s.hold
	if sw.target.New {
		hold = s.retire
	}
	select {
	case <-s.childGone:
		// First of all: from now on every connection would be refused.
		if ready {
			hold(ctx, link)
		}
		return func() {}
	default:
	}
	over, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		quiet := link.Quiet()
		for {
			select {
			case <-s.childGone:
				if ready {
					hold(ctx, link)
				}
				return
			case <-quiet:
				quiet = nil
				s.emit(StopChild{Reason: reason})
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-finished
	}
}

// hold tells the agent that nobody serves here any more.
func (s *Session) hold(ctx context.Context, link Link) {
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if err := link.Hold(ctx); err != nil {
		s.log.Warn("the agent could not be told to hold connections", "error", err)
	}
}

// restore undoes the steps backwards until nothing is left. What fails is tried again,
// with backoff, while the daemon lives; then the record stays for the next one.
func (s *Session) restore(ctx context.Context, sw *swap) error {
	rec := sw.entry.Record()
	left := rec.Steps
	wait := firstRetry
	for try := 1; ; try++ {
		err := s.attempt(ctx, sw, rec, &left)
		if err == nil {
			return s.forget(sw.entry)
		}
		if !s.pause(ctx, err, try, wait) {
			return errors.Join(fmt.Errorf("%s in namespace %s is not restored: %w\n"+
				"the record is kept: `teleswap restore` tries again", rec.Target, rec.Namespace, err), sw.entry.Release())
		}
		wait = min(2*wait, maxRetry)
	}
}

func (s *Session) forget(e Entry) error {
	if err := s.cfg.Keys.Forget(e.Record().Session); err != nil {
		s.log.Warn("the keys could not be removed", "error", err)
	}
	if err := e.Forget(); err != nil {
		// The undos may be repeated: the next start will find nothing to undo.
		s.log.Warn("the record could not be removed", "error", err)
		if err := e.Release(); err != nil {
			s.log.Debug("release the record", "error", err)
		}
	}
	return nil
}

// attempt undoes from the last step that is left.
func (s *Session) attempt(ctx context.Context, sw *swap, rec ledger.Record, left *[]ledger.Step) error {
	if sw.cluster == nil {
		cluster, err := s.cfg.Connect(s.connection(rec))
		if err != nil {
			return err
		}
		sw.cluster = cluster
	}
	if sw.orphan {
		sw.orphan = false
		s.relink(ctx, sw, rec)
	}
	for len(*left) > 0 {
		st := (*left)[len(*left)-1]
		err := s.track(st.Name, true, func() (string, error) { return s.undo(ctx, sw, rec.Session, st) })
		if err != nil {
			return err
		}
		*left = (*left)[:len(*left)-1]
	}
	return nil
}

// relink reaches the agent that a dead daemon has left, so that connections which wait
// there can be handed over. Without it they are lost, and restoring goes on.
func (s *Session) relink(ctx context.Context, sw *swap, rec ledger.Record) {
	keys, err := s.cfg.Keys.Load(rec.Session)
	if err != nil {
		s.log.Info("the agent of the dead daemon is not asked", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, relinkTimeout)
	defer cancel()
	for _, st := range rec.Steps {
		var u agentUndo
		if st.Name != undoAgent || json.Unmarshal(st.Undo, &u) != nil || u.Port == 0 {
			continue
		}
		pod, err := sw.cluster.WaitAgentRunning(ctx, u.Name, nil)
		if err == nil {
			sw.link, err = s.cfg.Dial(ctx, LinkConfig{
				Cluster: sw.cluster, Session: rec.Session, Agent: u.Name, Pod: pod, Port: u.Port, Keys: keys,
				Warn: func(string, ...any) {}, Logger: s.log,
			})
		}
		if err == nil {
			sw.ready = true // for all that is known
			err = sw.link.Hold(ctx)
		}
		if err != nil {
			s.log.Warn("the agent of the dead daemon cannot be told what comes", "error", err)
		}
		return
	}
}

// pause waits before the next try. It is false when there is to be none.
func (s *Session) pause(ctx context.Context, err error, try int, wait time.Duration) bool {
	select {
	case <-s.quitting:
		if try >= quitTries {
			return false
		}
		wait = firstRetry
	default:
	}
	s.setProblem(err.Error())
	s.become(Stuck)
	if try == 1 {
		s.warn("restoring does not succeed yet: %v; it is tried again until it does", err)
	}
	s.log.Warn("restore failed", "try", try, "error", err)
	s.emit(TryFailed{Err: err})
	// Half of the wait is random, so that many laptops do not come back at once.
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer timer.Stop()
	quitting := s.quitting
	if wait == firstRetry {
		quitting = nil // short enough
	}
	select {
	case <-timer.C:
	case <-quitting:
	case <-s.retry:
	case <-ctx.Done():
		return false
	}
	s.become(Restoring)
	return true
}

// letGo ends the child, if it still lives, and frees what the session holds.
func (s *Session) letGo(ctx context.Context, sw *swap, reason string) {
	if sw.prepared {
		s.emit(StopChild{Reason: reason})
		patience := time.NewTimer(childPatience)
		defer patience.Stop()
		select {
		case <-s.childGone:
		case <-patience.C:
			s.log.Warn("the command did not end its child in time")
		case <-ctx.Done():
		}
	}
	s.setMeter(nil)
	errs := []error{s.endUse(ctx, sw)}
	if sw.box != nil {
		errs = append(errs, sw.box.Kill())
	}
	sw.published.close()
	if sw.volumes != nil {
		errs = append(errs, sw.volumes.Close())
	}
	errs = append(errs, sw.clearFiles())
	if sw.link != nil {
		s.setLink(nil)
		errs = append(errs, sw.link.Close())
	}
	if sw.box != nil {
		errs = append(errs, sw.box.Close())
	}
	if sw.lease != nil {
		sw.unwatch()
		errs = append(errs, sw.lease.Close())
	}
	if sw.cluster != nil {
		errs = append(errs, sw.cluster.Close())
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("letting go", "error", err)
	}
}
