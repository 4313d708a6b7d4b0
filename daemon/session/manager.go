package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/docker"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
)

// Status is what there is to know of a session.
type Status struct {
	ID, Target, Namespace, Context string
	State                          State
	Since                          time.Time
	PID                            int // of the child; 0 while there is none
	Command                        []string
	Transport, AgentPod            string
	Steps                          []Step
	Problem                        string
	Ports                          []kube.PortMap // of the target, and the process's that they lead to
	Published                      []Publish
	Connect                        bool   // it takes nobody's place, or is the rest of what did
	Container                      string // docker's name of the one in which the process is; empty: none
}

// Manager owns the sessions of a daemon. Its methods are safe for concurrent use.
type Manager struct {
	cfg   Config
	begin chan func(context.Context)
	shut  chan struct{} // closed when Run takes nothing from begin any more

	mu       sync.Mutex
	sessions map[string]*Session
}

// ErrClosing says that the daemon is about to go.
var ErrClosing = errors.New("the daemon is ending; run the command again")

// NewManager makes a manager, whose sessions live while Run runs.
func NewManager(cfg Config) *Manager {
	return &Manager{cfg: cfg, begin: make(chan func(context.Context)), shut: make(chan struct{}), sessions: map[string]*Session{}}
}

// Run gives the sessions the context they live in, and returns when stop is closed and
// all of them have ended. The end of ctx gives them up: what they did stays in the
// ledger.
func (m *Manager) Run(ctx context.Context, stop <-chan struct{}) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case run := <-m.begin:
			running.Go(func() { run(ctx) })
		case <-stop:
			m.closeDoor()
			return
		}
	}
}

// closeDoor lets no session in any more and ends those that run. One that waits to be
// begun is turned away with ErrClosing, as if the daemon had never been asked. It is
// called once.
func (m *Manager) closeDoor() {
	close(m.shut)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		s.Quit("the daemon was told to quit")
	}
}

// Swap begins a session. Its first events are not lost to who watches it by the
// returned channel; see Session.Watch.
func (m *Manager) Swap(ctx context.Context, req Request) (*Session, <-chan Event, error) {
	s := newSession(newID(), m.cfg, req)
	s.restored, s.publisherOf = m.restoring, m.publisherOf
	events, _ := s.Watch(true)
	if err := m.enter(ctx, s, s.run); err != nil {
		return nil, nil, err
	}
	return s, events, nil
}

// enter adds a session and has Run run it. It waits for Run to begin; the error is
// ErrClosing where Run has gone.
func (m *Manager) enter(ctx context.Context, s *Session, run func(context.Context)) error {
	m.mu.Lock()
	m.sessions[s.id] = s
	m.mu.Unlock()
	select {
	case m.begin <- func(ctx context.Context) {
		defer m.leave(s)
		run(ctx)
	}:
		return nil
	case <-m.shut:
		m.leave(s)
		return ErrClosing
	case <-ctx.Done():
		m.leave(s)
		return context.Cause(ctx)
	}
}

func (m *Manager) leave(s *Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, s.id)
}

// Replay begins to restore every session in the ledger whose process has died. Records
// that cannot be read are told in the error; the others are replayed all the same.
func (m *Manager) Replay(ctx context.Context) ([]*Session, error) {
	records, err := m.cfg.Ledger.Records()
	var orphans []*Session
	for _, rec := range records {
		s, adoptErr := m.adopt(ctx, rec.Session, nil)
		switch {
		case errors.Is(adoptErr, ledger.ErrHeld), errors.Is(adoptErr, ledger.ErrGone):
		case adoptErr != nil:
			err = errors.Join(err, adoptErr)
		default:
			orphans = append(orphans, s)
		}
	}
	return orphans, err
}

// adopt takes a record over and begins to restore it.
func (m *Manager) adopt(ctx context.Context, id string, conn json.RawMessage) (*Session, error) {
	entry, err := m.cfg.Ledger.Take(id)
	if err != nil {
		return nil, err
	}
	return m.enterOrphan(ctx, id, entry, conn)
}

func (m *Manager) enterOrphan(ctx context.Context, id string, entry Entry, conn json.RawMessage) (*Session, error) {
	rec := entry.Record()
	s := newSession(id, m.cfg, Request{Connection: conn, Connect: isConnect(rec)})
	s.since, s.target, s.namespace, s.context = rec.Created, rec.Target, rec.Namespace, rec.Context
	if err := m.enter(ctx, s, func(ctx context.Context) { s.runOrphan(ctx, entry) }); err != nil {
		return nil, errors.Join(err, entry.Release())
	}
	return s, nil
}

// restoring is when a session that is being restored will have ended.
func (m *Manager) restoring(id string) <-chan struct{} {
	m.mu.Lock()
	s := m.sessions[id]
	m.mu.Unlock()
	if s == nil || s.State() != Restoring {
		return nil
	}
	return s.Done()
}

// publisherOf is the session that holds the port of the laptop; empty: none does.
func (m *Manager) publisherOf(p Publish) string {
	for _, s := range m.Sessions() {
		for _, held := range s.Status().Published {
			if held.UDP == p.UDP && held.At.Port() == p.At.Port() {
				return s.ID()
			}
		}
	}
	return ""
}

// Count is how many sessions there are.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sessions)
}

// Get is the session of that id; nil: there is none.
func (m *Manager) Get(id string) *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[id]
}

// Sessions are all sessions, oldest first.
func (m *Manager) Sessions() []*Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*Session, 0, len(m.sessions))
	for _, s := range m.sessions {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Session) int {
		if c := a.since.Compare(b.since); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return all
}

// Status is a copy of what the session knows of itself.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	container := ""
	if s.req.InContainer {
		container = docker.ContainerName(s.id, s.req.ContainerName)
	}
	return Status{
		Container: container, Connect: s.req.Connect,
		ID: s.id, Target: s.target, Namespace: s.namespace, Context: s.context, State: s.state, Since: s.since,
		PID: s.childPID, Command: s.req.Command, Transport: s.transport, AgentPod: s.agentPod,
		Steps: slices.Clone(s.steps), Problem: s.problem, Ports: s.ports, Published: s.published,
	}
}

// Select finds sessions by id or target; the empty selector means the only one.
func (m *Manager) Select(selector string, all bool) ([]*Session, error) {
	sessions := m.Sessions()
	if all {
		return sessions, nil
	}
	names := make([]string, 0, len(sessions))
	var found []*Session
	var meant []string
	for _, s := range sessions {
		st := s.Status()
		names = append(names, st.name())
		if selector == "" || st.matches(selector) {
			found = append(found, s)
			meant = append(meant, st.name())
		}
	}
	switch {
	case len(sessions) == 0:
		if selector != "" {
			return nil, fmt.Errorf("there is no session %q; see `teleswap status`", selector)
		}
		return nil, errors.New("there is no session to leave; see `teleswap status`")
	case len(found) == 0:
		return nil, fmt.Errorf("there is no session %q (see `teleswap status`); there is %s", selector, strings.Join(names, ", "))
	case len(found) > 1:
		return nil, fmt.Errorf("there are several sessions: %s\nname one by its id, or say --all", strings.Join(meant, ", "))
	}
	return found, nil
}

// name tells a session from others of a target of the same name.
func (st Status) name() string {
	if st.Namespace == "" { // not found yet
		return fmt.Sprintf("%s (%s)", st.ID, st.Target)
	}
	return fmt.Sprintf("%s (%s in %s)", st.ID, st.Target, st.Namespace)
}

// matches tells whether a selector means this session: its id, or its target in any of
// the ways to write it.
func (st Status) matches(selector string) bool {
	return selector == st.ID || kube.MeansTarget(selector, st.Target)
}

// Targets lists what can be swapped in the connection's namespace.
func (m *Manager) Targets(ctx context.Context, conn json.RawMessage) (namespace string, targets []kube.TargetSummary, err error) {
	cluster, err := m.cfg.Connect(conn)
	if err != nil {
		return "", nil, err
	}
	targets, err = cluster.Targets(ctx)
	return cluster.Namespace(), targets, errors.Join(err, cluster.Close())
}

// Namespaces lists the names of the namespaces of the connection's cluster.
func (m *Manager) Namespaces(ctx context.Context, conn json.RawMessage) (names []string, err error) {
	cluster, err := m.cfg.Connect(conn)
	if err != nil {
		return nil, err
	}
	names, err = cluster.Namespaces(ctx)
	return names, errors.Join(err, cluster.Close())
}
