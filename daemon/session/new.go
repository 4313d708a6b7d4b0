package session

import (
	"context"

	"github.com/teleswap/teleswap/daemon/kube"
)

// newUndo takes away what was made for a session that has no target.
type newUndo struct {
	Name  string `json:"name"`  // of the Deployment and the Service
	Agent string `json:"agent"` // of the Secret; it holds the session's id
}

// createNew makes the Deployment that is the agent, and what belongs to it. Its undo is in the ledger since the step mark.
func (s *Session) createNew(ctx context.Context, sw *swap) (err error) {
	if err := sw.cluster.CreateNew(ctx, sw.target, sw.agent, sw.mark); err != nil {
		return err
	}
	sw.pod, err = sw.cluster.WaitAgentRunning(ctx, sw.agent.Name, s.notify())
	return kube.ExplainNew(err)
}

// retire is hold where nobody comes after the process: what calls it then is refused, as before.
func (s *Session) retire(ctx context.Context, link Link) {
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if err := link.Retire(ctx); err != nil {
		s.log.Warn("the agent could not be told that the process has ended", "error", err)
	}
}

func (s *Session) undoNew(ctx context.Context, sw *swap, u newUndo) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	if err := sw.cluster.DeleteNew(ctx, u.Name, u.Agent, s.notify()); err != nil {
		return "", err
	}
	return "taken away", nil
}
