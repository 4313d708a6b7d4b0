package session

import (
	"context"
	"time"

	"github.com/teleswap/teleswap/daemon/connect"
)

// meter tells how the way to a session's agent does.
type meter interface {
	// Transport is the name of the way.
	Transport() string
	// RoundTrip is how long a word to the agent and its answer take now.
	RoundTrip(ctx context.Context) (time.Duration, error)
	// Traffic are the bytes that have come from the agent and gone to it.
	Traffic() (in, out uint64)
	// Queries is how many questions were put to the pod's resolver.
	Queries() uint64
}

// Measured is how the way to a session's agent does. What connects of one namespace share is counted for all of them.
type Measured struct {
	Transport string
	AgentPod  string        // the one that there is now; empty: the first
	RoundTrip time.Duration // 0: there was no answer in time
	In, Out   uint64        // bytes
	Queries   uint64
	// Changes are what was changed on this machine for the session, a line each.
	Changes []string
}

// changer is a Use that can say what it has changed on this machine.
type changer interface{ Changes() []string }

// publisherUse is a Use that listens on ports of this machine.
type publisherUse interface{ Published() []Publish }

// Measure takes the time of a word to the agent, as long as ctx lasts, and reads the counters.
func (s *Session) Measure(ctx context.Context) Measured {
	s.mu.Lock()
	m, published := s.meter, s.published
	using, _ := s.req.Use.(changer)
	active := s.state == Active
	s.mu.Unlock()
	var out Measured
	switch {
	case using != nil && active:
		out.Changes = using.Changes()
	case using == nil:
		for _, p := range published {
			out.Changes = append(out.Changes, p.leads())
		}
	}
	if m == nil {
		return out
	}
	out.Transport = m.Transport()
	if l, ok := m.(leaseMeter); ok { // whose agents come and go
		out.AgentPod = l.Status().AgentPod
	}
	out.In, out.Out = m.Traffic()
	out.Queries = m.Queries()
	if took, err := m.RoundTrip(ctx); err == nil {
		out.RoundTrip = took
	}
	return out
}

// leads says where a published port leads.
func (p Publish) leads() string {
	at, inside := p.At.String(), port{int32(p.Inside), p.UDP}
	if p.UDP {
		at += "/udp"
	}
	return at + " leads to the process's port " + inside.String()
}

// setMeter has Measure look at m from now on; nil: at nothing.
func (s *Session) setMeter(m meter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meter = m
}

// meterLink has Measure look at a link, if that can be looked at.
func (s *Session) meterLink(l Link) {
	if m, ok := l.(meter); ok {
		s.setMeter(m)
	}
}

// RoundTrip implements meter.
func (l *agentLink) RoundTrip(ctx context.Context) (time.Duration, error) {
	client, err := l.Working(ctx)
	if err != nil {
		return 0, err
	}
	return client.RoundTrip(ctx)
}

// Traffic implements meter.
func (l *agentLink) Traffic() (in, out uint64) {
	if counts, ok := l.tunnels.(interface{ Traffic() (down, up uint64) }); ok {
		return counts.Traffic()
	}
	return 0, 0
}

// Queries implements meter.
func (l *agentLink) Queries() uint64 { return l.queries.Load() }

// leaseMeter is a connection as a meter.
type leaseMeter struct{ *connect.Lease }

// Traffic implements meter.
func (l leaseMeter) Traffic() (in, out uint64) {
	st := l.Status()
	return st.Down, st.Up
}

// Queries implements meter.
func (l leaseMeter) Queries() uint64 { return l.Status().Queries }
