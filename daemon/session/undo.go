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
)

type markUndo struct {
	Name string `json:"name"` // the target's
}

type agentUndo struct {
	Name      string `json:"name"`   // of the Deployment and the Secret
	Target    string `json:"target"` // whose pods take over
	Available int32  `json:"available"`
	Port      int32  `json:"port"` // the agent's own
}

type shiftUndo struct {
	Name      string `json:"name"`
	Replicas  int32  `json:"replicas"`
	Available int32  `json:"available"` // pods that were available before
}

const (
	// callTimeout bounds one change at the API server: one that does not answer for so
	// long is away, and it is time to say so and to try again.
	callTimeout = 10 * time.Second
	// readyTimeout bounds the wait for the original's pods. Longer than any sensible
	// start, and short enough not to keep an agent for a target that cannot start.
	readyTimeout = 2 * time.Minute
	// goneTimeout is the agent's grace period and what the kubelet takes beyond it.
	goneTimeout = 90 * time.Second
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
	case undoMark:
		var u markUndo
		if err := json.Unmarshal(st.Undo, &u); err != nil {
			return "", fmt.Errorf("read the undo of %s: %w", st.Name, err)
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return "mark removed", sw.cluster.Unmark(ctx, u.Name, session)
	}
	return "", fmt.Errorf("the ledger names step %q, which this version of teleswap cannot undo; use the version that began the session", st.Name)
}

// undoShift brings the originals back and waits until they serve.
func (s *Session) undoShift(ctx context.Context, sw *swap, u shiftUndo) (string, error) {
	gone, err := scaleBack(ctx, sw.cluster, u.Name, u.Replicas)
	if err != nil {
		return "", err
	}
	if gone {
		return "the deployment is gone", nil
	}
	ready, err := s.takeOver(ctx, sw, u.Name, u.Available)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d replicas, %d ready", u.Replicas, ready), nil
}

// scaleBack gives the target its replicas, unless somebody has scaled it meanwhile:
// then theirs is the newer wish.
func scaleBack(ctx context.Context, c Cluster, name string, replicas int32) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	targets, err := c.Targets(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range targets {
		if t.Name != name {
			continue
		}
		if t.Replicas != 0 {
			return false, nil
		}
		err := c.Scale(ctx, name, replicas)
		var missing *kube.NotFoundError
		if errors.As(err, &missing) {
			return true, nil
		}
		return false, err
	}
	return true, nil
}

// undoAgent takes the agent away, its connections first.
func (s *Session) undoAgent(ctx context.Context, sw *swap, u agentUndo) (string, error) {
	if sw.ready && !sw.moved {
		// Ready, but not shifted: the originals serve, and the agent's share is theirs.
		if _, err := s.takeOver(ctx, sw, u.Target, u.Available); err != nil {
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
func (s *Session) takeOver(ctx context.Context, sw *swap, name string, n int32) (ready int, err error) {
	if n < 1 {
		return 0, nil
	}
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	pods, err := sw.cluster.WaitAvailable(wait, name, n, s.notify())
	var missing *kube.NotFoundError
	switch {
	case errors.As(err, &missing):
		return 0, nil
	case err != nil && wait.Err() != nil && ctx.Err() == nil:
		s.warn("deployment/%s has its replicas again, but after %s its pods are not ready (%v); see kubectl describe deployment %s", name, readyTimeout, err, name)
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
