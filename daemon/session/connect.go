package session

import (
	"context"
	"errors"

	"github.com/teleswap/teleswap/daemon/ledger"
)

// ConnectUndo is the ledger's step of an agent that stands in nobody's place, in a record of its own, which has its session's id.
func ConnectUndo() ledger.Step { return ledger.Step{Name: undoConnect} }

// NewID is the name of a new session, or of what has a record as a session has.
func NewID() string { return newID() }

// Adopt begins to undo a record that was released, and does not give up while the daemon lives. It is no error that there is none.
func (m *Manager) Adopt(ctx context.Context, id string) error {
	_, err := m.adopt(ctx, id, nil)
	if errors.Is(err, ledger.ErrHeld) || errors.Is(err, ledger.ErrGone) {
		return nil
	}
	return err
}
