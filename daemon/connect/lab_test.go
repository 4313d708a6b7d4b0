package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/internal/agenttest"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a cluster in which agents run on this machine's loopback, and the ledger.
type lab struct {
	t *testing.T

	mu     sync.Mutex
	log    []string      // effects, in order
	noted  chan struct{} // closed when there is another effect
	agents map[string]*agent
	held   map[string]bool // records of the ledger
	fail   map[string]error
	ids    int
	block  chan struct{} // WaitConnect waits for it; nil: it does not
	slow   chan struct{} // SettleConnect waits for it, whatever becomes of its context; nil: it does not
}

// agent is one that runs.
type agent struct {
	*agenttest.Agent
	pod  string
	keys map[string][]byte
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, noted: make(chan struct{}), agents: map[string]*agent{}, held: map[string]bool{}, fail: map[string]error{}}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.agents) > 0 || len(l.held) > 0 {
			t.Errorf("left: agents %v, records %v", l.agents, l.held)
		}
	})
	return l
}

// hub is one of a daemon; the test's end closes it.
func (l *lab) hub() *Hub {
	h := NewHub(l.t.Context(), Config{
		Open:   func(json.RawMessage) (Cluster, error) { return &cluster{lab: l, namespace: "shop"}, nil },
		Redact: func(conn json.RawMessage, _ Cluster, _ string) (json.RawMessage, error) { return conn, nil },
		Dial:   new(link.Dialer).Dial,
		Begin: func(r ledger.Record) (Entry, error) {
			l.note("record " + r.Session)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.held[r.Session] = true
			return &entry{l, r}, nil
		},
		Undo: ledger.Step{Name: "connect"},
		Abandon: func(_ context.Context, session string) error {
			l.note("abandon " + session)
			return nil
		},
		NewID: func() string {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ids++
			return fmt.Sprint("id", l.ids)
		},
		User: "ada", Host: "laptop", Now: time.Now,
	})
	l.t.Cleanup(func() {
		if err := h.Close(); err != nil {
			l.t.Error(err)
		}
	})
	return h
}

func (l *lab) note(effect string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, effect)
	close(l.noted)
	l.noted = make(chan struct{})
}

// await waits for an effect.
func (l *lab) await(effect string) {
	l.t.Helper()
	patience := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		has, noted := slices.Contains(l.log, effect), l.noted
		l.mu.Unlock()
		if has {
			return
		}
		select {
		case <-noted:
		case <-patience:
			l.t.Fatalf("no %q in %q", effect, l.history())
		}
	}
}

func (l *lab) history() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.log)
}

// failing makes a call of the cluster fail; nil: not any more.
func (l *lab) failing(call string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail[call] = err
}

func (l *lab) failure(call string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail[call]
}

// acquire is Acquire that must succeed; the Lease is closed at the test's end.
func (l *lab) acquire(h *Hub) *Lease {
	l.t.Helper()
	lease, err := h.Acquire(l.t.Context(), Request{Image: "agent:1"}, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = lease.Close() })
	return lease
}

// entry is a record that is held.
type entry struct {
	lab *lab
	rec ledger.Record
}

func (e *entry) Record() ledger.Record { return e.rec }

func (e *entry) Forget() error {
	e.lab.note("forget " + e.rec.Session)
	return e.Release()
}

func (e *entry) Release() error {
	e.lab.mu.Lock()
	defer e.lab.mu.Unlock()
	delete(e.lab.held, e.rec.Session)
	return nil
}

// cluster is the lab as one namespace's.
type cluster struct {
	lab       *lab
	namespace string
}

func (c *cluster) Server() string    { return "https://test" }
func (c *cluster) Namespace() string { return c.namespace }
func (c *cluster) Context() string   { return "test" }
func (c *cluster) Close() error      { return nil }

func (c *cluster) CheckConnect(context.Context) error { return c.lab.failure("CheckConnect") }

func (c *cluster) Ranges(context.Context, ...netip.Addr) kube.Ranges {
	return kube.Ranges{Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, How: "by the test"}
}

func (c *cluster) CreateConnect(_ context.Context, a kube.Connector) error {
	if err := c.lab.failure("CreateConnect"); err != nil {
		return err
	}
	c.lab.note("create " + a.Session)
	made := c.lab.start(a.Keys)
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	made.pod = "pod-of-" + a.Session
	c.lab.agents[a.Session] = made
	return nil
}

func (c *cluster) SettleConnect(_ context.Context, session string) error {
	if err := c.lab.failure("SettleConnect"); err != nil {
		c.lab.note("cannot settle " + session)
		return err
	}
	c.lab.note("settle " + session)
	c.lab.mu.Lock()
	slow := c.lab.slow
	c.lab.mu.Unlock()
	if slow != nil {
		<-slow
	}
	return nil
}

func (c *cluster) WaitConnect(ctx context.Context, session string, notify kube.Notify) (kube.AgentPod, error) {
	if err := c.lab.failure("WaitConnect"); err != nil {
		return kube.AgentPod{}, err
	}
	c.lab.mu.Lock()
	block, a := c.lab.block, c.lab.agents[session]
	c.lab.mu.Unlock()
	if block != nil {
		if notify != nil {
			notify("the test waits")
		}
		select {
		case <-block:
		case <-ctx.Done():
			return kube.AgentPod{}, ctx.Err()
		}
	}
	if a == nil {
		return kube.AgentPod{}, &kube.NotFoundError{What: "job", Name: session}
	}
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	return kube.AgentPod{Namespace: c.namespace, Name: a.pod}, nil
}

func (c *cluster) DeleteConnect(_ context.Context, session string, _ kube.Notify) error {
	if err := c.lab.failure("DeleteConnect"); err != nil {
		return err
	}
	c.lab.note("delete " + session)
	c.lab.stop(session)
	return nil
}

func (c *cluster) DialPodProxy(ctx context.Context, _, pod string, _ int32) (net.Conn, error) {
	if err := c.lab.failure("DialPodProxy"); err != nil {
		c.lab.note("cannot dial " + pod)
		return nil, err
	}
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	for _, a := range c.lab.agents {
		if a.pod == pod {
			return a.Dial(ctx)
		}
	}
	return nil, errors.New("no such pod")
}

func (c *cluster) DialPortForward(context.Context, string, string, int32, string) (net.Conn, error) {
	return nil, errors.New("no such way here")
}

// start runs an agent. Its pod's resolver knows web.shop.svc.cluster.local at 127.0.0.1.
func (l *lab) start(keys map[string][]byte) *agent {
	served, err := agenttest.Start(l.t.Context(), keys, tunnel.ServerConfig{
		View: func() (*tunnel.PodView, error) {
			return &tunnel.PodView{
				PodIps:     []string{"10.244.1.9"},
				ResolvConf: []byte("search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"),
			}, nil
		},
		Resolve: resolve, Dial: agenttest.DialPod,
	})
	if err != nil {
		l.t.Error(err)
	}
	return &agent{Agent: served, keys: keys}
}

func resolve(_ context.Context, msg []byte) ([]byte, error) {
	q, a := new(dns.Msg), new(dns.Msg)
	if err := q.Unpack(msg); err != nil {
		return nil, err
	}
	a.SetReply(q)
	switch {
	case q.Question[0].Name != "web.shop.svc.cluster.local.":
		a.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		a.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1),
		}}
	}
	return a.Pack()
}

// replace starts an agent's next pod; the one before is told to end, and ends with the returned func.
func (l *lab) replace(session, pod string) (end func()) {
	l.mu.Lock()
	was := l.agents[session]
	l.mu.Unlock()
	next := l.start(was.keys)
	next.pod = pod
	l.mu.Lock()
	l.agents[session] = next
	l.mu.Unlock()
	was.Announce(tunnel.PodShutdown{})
	return func() { l.end(was) }
}

// stop ends an agent; there may be none.
func (l *lab) stop(session string) {
	l.mu.Lock()
	a := l.agents[session]
	delete(l.agents, session)
	l.mu.Unlock()
	if a != nil {
		l.end(a)
	}
}

func (l *lab) end(a *agent) {
	if err := a.Stop(); err != nil {
		l.t.Error(err)
	}
}

// now is the only agent that runs.
func (l *lab) now() (session string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for session := range l.agents {
		return session
	}
	return ""
}
