package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
)

// RestoreRequest says what is to be restored.
type RestoreRequest struct {
	Connection    json.RawMessage
	Selector      string // target or session id, whoever's; empty: all that this user left from this machine
	All           bool   // every marked target, other people's too
	AllNamespaces bool
}

// Restore begins to restore sessions that nobody lives for: those in this machine's
// ledger, and those whose mark stands in the cluster. Sessions of this daemon that are
// stuck try again. Messages say what is left alone, and why.
func (m *Manager) Restore(ctx context.Context, req RestoreRequest) (restoring []*Session, messages []Message, err error) {
	for _, s := range m.Sessions() {
		st := s.Status()
		if req.Selector != "" && !st.matches(req.Selector) {
			continue
		}
		if st.State == Restoring || st.State == Stuck {
			s.Retry(nil)
			restoring = append(restoring, s)
		}
	}
	orphans, messages := m.restoreRecords(ctx, req)
	restoring = append(restoring, orphans...)
	cluster, err := m.cfg.Connect(req.Connection)
	if err != nil {
		if len(restoring) > 0 {
			return restoring, append(messages, Message{Warning: true, Text: err.Error()}), nil
		}
		return nil, messages, err
	}
	marked, err := cluster.ListMarked(ctx, req.AllNamespaces)
	if err != nil {
		err = errors.Join(err, cluster.Close())
		if len(restoring) > 0 {
			return restoring, append(messages, Message{Warning: true, Text: err.Error()}), nil
		}
		return nil, messages, err
	}
	for _, mk := range marked {
		if req.Selector != "" && mk.Mark.ID != req.Selector && !kube.MeansTarget(req.Selector, mk.Object().String()) {
			continue
		}
		s, text := m.restoreMarked(ctx, req, cluster, mk)
		if s != nil {
			restoring = append(restoring, s)
		}
		if text != "" {
			messages = append(messages, Message{Warning: true, Text: text})
		}
	}
	return restoring, messages, cluster.Close()
}

// restoreRecords adopts the records of dead processes.
func (m *Manager) restoreRecords(ctx context.Context, req RestoreRequest) (orphans []*Session, messages []Message) {
	records, err := m.cfg.Ledger.Records()
	if err != nil {
		messages = append(messages, Message{Warning: true, Text: err.Error()})
	}
	for _, rec := range records {
		if req.Selector != "" && rec.Session != req.Selector && !kube.MeansTarget(req.Selector, rec.Target) {
			continue
		}
		s, err := m.adopt(ctx, rec.Session, nil)
		switch {
		case errors.Is(err, ledger.ErrHeld), errors.Is(err, ledger.ErrGone):
		case err != nil:
			messages = append(messages, Message{Warning: true, Text: err.Error()})
		default:
			orphans = append(orphans, s)
		}
	}
	return orphans, messages
}

// restoreMarked restores by the mark alone: the ledger is on another machine, or lost.
func (m *Manager) restoreMarked(ctx context.Context, req RestoreRequest, cluster Cluster, mk kube.Marked) (*Session, string) {
	target := mk.Object().String()
	ours := mk.Mark.User == m.cfg.User && mk.Mark.Host == m.cfg.Host
	if s := m.find(mk.Mark.ID); s != nil {
		if st := s.State(); st == Starting || st == Active {
			return nil, fmt.Sprintf("%s is swapped by a living session (%s); end it by `teleswap leave %s`", target, mk.Mark.ID, mk.Mark.ID)
		}
		return nil, "" // being restored already
	}
	if !ours && !req.All && req.Selector == "" {
		return nil, fmt.Sprintf("%s in namespace %s is swapped by %s since %s (session %s): left alone\n"+
			"if that laptop is gone, take it back by `teleswap restore %s`",
			target, mk.Namespace, mk.Mark.Who(), mk.Mark.Since.Local().Format("2006-01-02 15:04:05 MST"), mk.Mark.ID, target)
	}
	entry, err := m.recordOf(req.Connection, cluster, mk)
	switch {
	case errors.Is(err, ledger.ErrHeld):
		return nil, fmt.Sprintf("%s is swapped by a living session of another daemon on this machine (session %s)", target, mk.Mark.ID)
	case err != nil:
		return nil, err.Error()
	}
	s, err := m.enterOrphan(ctx, mk.Mark.ID, entry, nil)
	if err != nil {
		return nil, err.Error()
	}
	return s, ""
}

// recordOf writes the record that the session's own machine has or had.
func (m *Manager) recordOf(conn json.RawMessage, cluster Cluster, mk kube.Marked) (Entry, error) {
	redacted, err := m.cfg.Redact(conn, cluster, mk.Namespace)
	if err != nil {
		return nil, err
	}
	rec := ledger.Record{
		Session: mk.Mark.ID, Created: mk.Mark.Since, Target: mk.Object().String(), Namespace: mk.Namespace,
		Context: cluster.Context(), Connection: redacted,
	}
	o := mk.Object()
	// The mark does not say how many pods were available, so wait for one.
	type step struct {
		name string
		data any
	}
	mark := step{undoMark, markUndo{Kind: o.Kind, Name: o.Name}}
	agent := step{undoAgent, agentUndo{Name: mk.Mark.Agent, Kind: o.Kind, Target: o.Name, Pod: o.Pod}}
	shift := step{undoShift, shiftUndo{Shift: mk.Mark.Shift(o), Agent: mk.Mark.Agent, Available: min(1, mk.Mark.Replicas)}}
	steps := []step{mark, agent, shift}
	switch named := strings.TrimSpace(mk.Mark.Agent) != ""; {
	case !named && !mk.Mark.Restoring:
		return nil, fmt.Errorf("the mark of %s does not name its agent", o)
	case !named: // its own undo wrote it, and died: nothing else is left
		steps = []step{mark}
	case mk.Mark.New:
		steps = []step{{undoNew, newUndo{Name: o.Name, Agent: mk.Mark.Agent}}}
	case mk.Mark.ScaleFirst:
		steps = []step{mark, shift, agent}
	}
	for _, u := range steps {
		st, err := undoStep(u.name, u.data)
		if err != nil {
			return nil, err
		}
		rec.Steps = append(rec.Steps, st)
	}
	return m.cfg.Ledger.Begin(rec)
}

func (m *Manager) find(id string) *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[id]
}
