package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
)

// The names of the undos in the ledger.
const (
	undoMark  = "mark"
	undoAgent = "agent"
	undoShift = "shift"
	undoNew   = "new"
	// undoConnect is of an agent in nobody's place; see package connect.
	undoConnect = "connect"
)

// Records of versions that knew Deployments alone have no kinds: an empty one is that.
type markUndo struct {
	Kind kube.Kind `json:"kind,omitempty"`
	Name string    `json:"name"` // the target's
}

type agentUndo struct {
	Name      string    `json:"name"` // of the Deployment or Pod and the Secret
	Kind      kube.Kind `json:"kind,omitempty"`
	Target    string    `json:"target"`        // whose pods take over
	Pod       string    `json:"pod,omitempty"` // the one of them that does, of a DaemonSet
	Available int32     `json:"available"`
	Port      int32     `json:"port"` // the agent's own
}

type shiftUndo struct {
	kube.Shift
	Agent     string `json:"agent,omitempty"`
	Available int32  `json:"available"` // pods that were available before
}

const (
	// callTimeout bounds one undo's change at the API server: one that does not answer for so long is away, and it is time to say
	// so and to try again. A request that has begun gets its own time all the same (package kube).
	callTimeout = 10 * time.Second
	// readyTimeout bounds the wait for the original's pods. Longer than any sensible
	// start, and short enough not to keep an agent for a target that cannot start.
	readyTimeout = 2 * time.Minute
	// goneTimeout is the agent's grace period and what the kubelet takes beyond it.
	goneTimeout = 90 * time.Second
	// settleTime is what a request is given whose client has died: the API server gives up what it has not made yet when the
	// connection goes, which the kernel closes at once.
	settleTime = time.Second
	// longSince is how old a record is of whose session no request can be under way any more: each has some seconds, and the steps follow one
	// another without a wait until the swap is active.
	longSince = time.Minute
	// handOverTimeout bounds a message to the agent, which may be gone.
	handOverTimeout = 5 * time.Second
)

// undo takes back one step. Each undo may be repeated, and succeeds where there is
// nothing to take back: its effect may never have happened. sw is what lives of the
// session; in an orphan only its cluster is set.
func (s *Session) undo(ctx context.Context, sw *swap, session string, st ledger.Step) (string, error) {
	switch st.Name {
	case undoShift:
		var u shiftUndo
		if err := json.Unmarshal(st.Undo, &u); err != nil {
			return "", fmt.Errorf("read the undo of %s: %w", st.Name, err)
		}
		return s.undoShift(ctx, sw, u)
	case undoAgent:
		var u agentUndo
		if err := json.Unmarshal(st.Undo, &u); err != nil {
			return "", fmt.Errorf("read the undo of %s: %w", st.Name, err)
		}
		return s.undoAgent(ctx, sw, u)
	case undoNew:
		var u newUndo
		if err := json.Unmarshal(st.Undo, &u); err != nil {
			return "", fmt.Errorf("read the undo of %s: %w", st.Name, err)
		}
		return s.undoNew(ctx, sw, u)
	case undoConnect:
		ctx, cancel := context.WithTimeout(ctx, goneTimeout)
		defer cancel()
		return "taken away", sw.cluster.DeleteConnect(ctx, session, s.notify())
	case undoMark:
		var u markUndo
		if err := json.Unmarshal(st.Undo, &u); err != nil {
			return "", fmt.Errorf("read the undo of %s: %w", st.Name, err)
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return "mark removed", sw.cluster.Unmark(ctx, kube.Object{Kind: u.Kind, Name: u.Name}, session)
	}
	return "", fmt.Errorf("the ledger names step %q, which this version of teleswap cannot undo; use the version that began the session", st.Name)
}

// undoShift brings the originals back and waits until they serve.
func (s *Session) undoShift(ctx context.Context, sw *swap, u shiftUndo) (string, error) {
	o := u.Object()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	outcome, err := sw.cluster.Unshift(call, u.Shift, u.Agent)
	cancel()
	if err != nil {
		return "", err
	}
	switch {
	case outcome == kube.Taken:
		return "the " + o.Kind.String() + " is another session's by now: left alone", nil
	case outcome == kube.Gone && u.Pod != "":
		return "pod " + u.Pod + " is gone", nil
	case outcome == kube.Gone:
		return "the " + o.Kind.String() + " is gone", nil
	}
	ready, err := s.takeOver(ctx, sw, o, u.Available)
	if err != nil {
		return "", err
	}
	switch o.Kind {
	case kube.Pod, kube.DaemonSet:
		return fmt.Sprintf("pod %s has its labels, %d ready", u.Pod, ready), nil
	case kube.Job, kube.CronJob:
		if u.Suspended {
			return "stays suspended, as it was", nil
		}
		return "resumed", nil
	}
	return fmt.Sprintf("%d replicas, %d ready", u.Replicas, ready), nil
}

// undoAgent takes the agent away, its connections first.
func (s *Session) undoAgent(ctx context.Context, sw *swap, u agentUndo) (string, error) {
	if sw.ready && !sw.moved {
		// Ready, but not shifted: the originals serve, and the agent's share is theirs.
		if _, err := s.takeOver(ctx, sw, kube.Object{Kind: u.Kind, Name: u.Target, Pod: u.Pod}, u.Available); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	if err := sw.cluster.DeleteAgent(ctx, u.Name, s.notify()); err != nil {
		return "", err
	}
	if err := sw.cluster.DeleteSecret(ctx, u.Name); err != nil {
		return "", err
	}
	return "agent deleted", nil
}

// takeOver waits for the original's pods and tells the agent about them. Pods that do
// not come up in time are not waited for: the target has its replicas, and what keeps
// them from starting is not ours to mend.
func (s *Session) takeOver(ctx context.Context, sw *swap, o kube.Object, n int32) (ready int, err error) {
	if n < 1 {
		return 0, nil
	}
	patience := readyTimeout
	if o.Kind == kube.StatefulSet {
		patience *= time.Duration(n) // its pods may come one after the other
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods, err := sw.cluster.WaitAvailable(wait, o, n, s.notify())
	var missing *kube.NotFoundError
	switch {
	case errors.As(err, &missing):
		return 0, nil
	case err != nil && wait.Err() != nil && ctx.Err() == nil:
		s.warn("%s is given back, but after %s its pods are not ready (%v); see kubectl describe %s", o, patience, err, o)
		return 0, nil
	case err != nil:
		return 0, err
	}
	s.handOver(ctx, sw, pods)
	return len(pods), nil
}

// handOver is a courtesy to connections under way: restoring goes on without it.
func (s *Session) handOver(ctx context.Context, sw *swap, pods []netip.Addr) {
	if sw.link == nil || len(pods) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := sw.link.HandOver(ctx, pods); err != nil {
		s.log.Warn("the agent could not be told where to send connections", "error", err)
		return
	}
	sw.moved = true
}
