package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// Use is what a session does with a connection to the cluster, beside running a command in it. Its methods are called by one
// goroutine at a time, in the order in which they stand here.
type Use interface {
	// Name is what status calls it.
	Name() string
	// Begin makes it so, once the connection stands, and returns when it works; detail is shown with the step. tell gives the owner
	// lines, also later. The lease is the session's, which closes it after End.
	Begin(ctx context.Context, lease *connect.Lease, tell Tell) (detail string, err error)
	// Failed is closed when it has stopped working by itself, and Err then says why. Nil: it never does.
	Failed() <-chan struct{}
	Err() error
	// End undoes Begin, also one that failed or was cancelled. It is called once.
	End(ctx context.Context) error
}

// Tell gives a line to the session's owner.
type Tell func(warning bool, format string, args ...any)

// useEndPatience bounds the end of a Use.
const useEndPatience = 20 * time.Second

// connectName is what status calls a connect.
func connectName(u Use) string {
	if u == nil {
		return "connect"
	}
	return u.Name()
}

// connecting are the steps of a connect.
func connecting(req Request) []step {
	join := step{"connect", (*Session).connect}
	if req.Use != nil {
		return []step{join, {"use", (*Session).beginUse}}
	}
	return []step{join, {"start", (*Session).startConnected}}
}

// connect joins, or stands up, the connection to the namespace.
func (s *Session) connect(ctx context.Context, sw *swap) (string, error) {
	if s.req.Use == nil && !s.req.Plain && !s.req.InContainer {
		if err := s.cfg.Check(); err != nil {
			return "", err
		}
	}
	lease, err := s.cfg.Acquire(ctx, connect.Request{
		Connection: s.req.Connection, Image: s.req.Image, PullPolicy: s.req.PullPolicy,
	}, func(line string) { s.note("%s", line) })
	if err != nil {
		return "", err
	}
	sw.lease, sw.view = lease, lease.View()
	st := lease.Status()
	s.mu.Lock()
	s.namespace, s.context, s.transport, s.agentPod = st.Namespace, st.Context, st.Transport, st.AgentPod
	s.mu.Unlock()
	s.setMeter(leaseMeter{lease})
	s.attending.Go(func() { s.endWithLease(lease) })
	sw.unwatch = lease.Watch(func(line string) { s.warn("%s", line) })
	return fmt.Sprintf("%s by %s; %s", st.Namespace, st.Transport, lease.Ranges().How), nil
}

// endWithLease ends the session when the connection has ended for good. It ends with the session.
func (s *Session) endWithLease(lease *connect.Lease) {
	select {
	case <-lease.Done():
		s.end(ending{reason: "the connection has ended", err: lease.Err()})
	case <-s.ended:
	}
}

// beginUse begins what the connection is for.
func (s *Session) beginUse(ctx context.Context, sw *swap) (string, error) {
	sw.using = true
	use := s.req.Use
	detail, err := use.Begin(ctx, sw.lease, func(warning bool, format string, args ...any) { s.say(warning, format, args...) })
	if err != nil {
		return "", err
	}
	if p, ok := use.(publisherUse); ok {
		s.mu.Lock()
		s.published = p.Published()
		s.mu.Unlock()
	}
	s.attending.Go(func() {
		select {
		case <-use.Failed():
			s.end(ending{reason: "it has stopped working", err: use.Err()})
		case <-s.ended:
		}
	})
	return detail, nil
}

// endUse ends what was begun.
func (s *Session) endUse(ctx context.Context, sw *swap) error {
	if !sw.using {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, useEndPatience)
	defer cancel()
	return s.req.Use.End(ctx)
}

// leased is a Lease as the tunnels of a link, which does not close it.
type leased struct{ *connect.Lease }

// Gone implements tunnels.
func (l leased) Gone() <-chan struct{} { return l.Done() }

// Close implements tunnels.
func (leased) Close() error { return nil }

// connectLink is an agentLink whose agent stands in nobody's place: nothing arrives, and the pod has no neighbours.
type connectLink struct{ *agentLink }

// Attach implements Link.
func (l connectLink) Attach(_ context.Context, box Box, view *tunnel.PodView) error {
	stack, err := l.newStack(box, view)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stack = stack
	return nil
}

// linkOver makes the link of a connect, which the session closes before the Lease.
func (s *Session) linkOver(ctx context.Context, lease *connect.Lease) Link {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	ranges := lease.Ranges()
	l := newAgentLink(LinkConfig{
		Session: s.id, Services: append(append([]netip.Prefix{}, ranges.Services...), ranges.Pods...), Also: s.req.Also,
		Warn: s.warn, Logger: s.log,
	}, stop)
	l.tunnels = leased{lease}
	l.loops.Go(func() { l.outletLoop(life) })
	return connectLink{l}
}

// startConnected has the owner start its process, and joins its sandbox to the connection. Of the pod the process has the
// network and the resolver only: it is in nobody's place.
func (s *Session) startConnected(ctx context.Context, sw *swap) (string, error) {
	sw.link = s.linkOver(ctx, sw.lease)
	if s.req.Plain {
		proxy, err := sw.link.AttachLaptop(nowhere{}, sw.view)
		if err != nil {
			return "", fmt.Errorf("join this machine to the pod: %w", err)
		}
		sw.prepared = true
		s.emit(Prepare{Plain: true, Proxy: proxy})
		return s.awaitChild(ctx)
	}
	addrs, err := podPrefixes(sw.view)
	if err != nil {
		return "", err
	}
	token := rand.Text()
	arrived, cancel := s.cfg.Boxes.Expect(s.id, token, s.req.InContainer)
	defer cancel()
	sw.prepared = true
	s.emit(Prepare{Token: token, Addresses: addrs, MTU: sandbox.DefaultMTU, ResolvConf: sw.view.GetResolvConf()})
	select {
	case sw.box = <-arrived:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	err = sw.link.Attach(ctx, sw.box, sw.view)
	if ackErr := sw.box.Ack(err); err == nil {
		err = ackErr
	}
	if err != nil {
		return "", fmt.Errorf("join the sandbox to the connection: %w", err)
	}
	return s.awaitChild(ctx)
}

// ConnectUndo is the ledger's step of an agent that stands in nobody's place, in a record of its own, which has its session's id.
func ConnectUndo() ledger.Step { return ledger.Step{Name: undoConnect} }

// isConnect says whether a record is of an agent in nobody's place.
func isConnect(rec ledger.Record) bool {
	return len(rec.Steps) == 1 && rec.Steps[0].Name == undoConnect
}

// NewID is the name of a new session, or of what has a record as a session has.
func NewID() string { return newID() }

// Connect begins a session that takes nobody's place; see Swap.
func (m *Manager) Connect(ctx context.Context, req Request) (*Session, <-chan Event, error) {
	req.Connect = true
	return m.Swap(ctx, req)
}

// Adopt begins to undo a record that was released, and does not give up while the daemon lives. It is no error that there is none.
func (m *Manager) Adopt(ctx context.Context, id string) error {
	_, err := m.adopt(ctx, id, nil)
	if errors.Is(err, ledger.ErrHeld) || errors.Is(err, ledger.ErrGone) {
		return nil
	}
	return err
}
