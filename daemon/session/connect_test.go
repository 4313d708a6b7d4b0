package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/internal/agenttest"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// connectCluster runs a connection's agent on this machine's loopback.
type connectCluster struct {
	*fakeCluster
	t     *testing.T
	agent *agenttest.Agent
}

func (c *connectCluster) CheckConnect(context.Context) error          { return nil }
func (c *connectCluster) SettleConnect(context.Context, string) error { return nil }

func (c *connectCluster) Ranges(context.Context, ...netip.Addr) kube.Ranges {
	return kube.Ranges{Services: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, How: "by the test"}
}

func (c *connectCluster) CreateConnect(_ context.Context, a kube.Connector) error {
	var err error
	c.agent, err = agenttest.Start(c.t.Context(), a.Keys, tunnel.ServerConfig{
		View: func() (*tunnel.PodView, error) {
			return &tunnel.PodView{PodIps: []string{"10.244.0.9"}, ResolvConf: []byte("search shop.svc.cluster.local\nnameserver 10.96.0.10\n")}, nil
		},
		Dial: agenttest.DialPod,
	})
	return err
}

func (c *connectCluster) WaitConnect(context.Context, string, kube.Notify) (kube.AgentPod, error) {
	return kube.AgentPod{Namespace: "default", Name: "agent"}, nil
}

func (c *connectCluster) DeleteConnect(context.Context, string, kube.Notify) error {
	return c.agent.Stop()
}

func (c *connectCluster) DialPodProxy(ctx context.Context, _, _ string, _ int32) (net.Conn, error) {
	return c.agent.Dial(ctx)
}

// connectProcess is a process with a hub of its own, whose connections are to a connectCluster.
func connectProcess(t *testing.T) *proc {
	t.Helper()
	l := newLab(t)
	p := l.process(0)
	sessions, err := ledger.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hub := connect.NewHub(t.Context(), connect.Config{
		Open: func(json.RawMessage) (connect.Cluster, error) {
			return &connectCluster{fakeCluster: p.cluster, t: t}, nil
		},
		Redact: func(conn json.RawMessage, _ connect.Cluster, _ string) (json.RawMessage, error) { return conn, nil },
		Dial:   new(link.Dialer).Dial,
		Begin: func(r ledger.Record) (connect.Entry, error) {
			e, err := sessions.Begin(r)
			if err != nil {
				return nil, err
			}
			return e, nil
		},
		Undo: ConnectUndo(), Abandon: p.Adopt, NewID: NewID, Now: time.Now,
	})
	p.cfg.Acquire = hub.Acquire
	t.Cleanup(func() {
		p.end()
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
		if left, err := sessions.Records(); err != nil || len(left) > 0 {
			t.Errorf("records left: %v, %v", left, err)
		}
	})
	return p
}

// fakeUse notes what is asked of it.
type fakeUse struct {
	begin  func(lease *connect.Lease) error
	calls  chan string
	failed chan struct{}
}

func newFakeUse(begin func(*connect.Lease) error) *fakeUse {
	return &fakeUse{begin: begin, calls: make(chan string, 8), failed: make(chan struct{})}
}

func (u *fakeUse) Name() string { return "connect --test" }

func (u *fakeUse) Begin(_ context.Context, lease *connect.Lease, tell Tell) (string, error) {
	u.calls <- "begin"
	tell(false, "hello from %s", lease.Namespace())
	return "works", u.begin(lease)
}

func (u *fakeUse) Failed() <-chan struct{} { return u.failed }
func (u *fakeUse) Err() error              { return errFailed }

func (u *fakeUse) End(context.Context) error {
	u.calls <- "end"
	close(u.calls)
	return nil
}

var errFailed = errors.New("it failed")

func (u *fakeUse) history() string {
	var all []string
	for call := range u.calls {
		all = append(all, call)
	}
	return strings.Join(all, " ")
}

func TestUseOfAConnection(t *testing.T) {
	fine := func(*connect.Lease) error { return nil }
	for _, tc := range []struct {
		name  string
		begin func(*connect.Lease) error
		end   func(*Session, *fakeUse)
		want  error
	}{
		{"left", fine, func(s *Session, _ *fakeUse) { s.Leave("test", true) }, nil},
		{"its owner died", fine, func(s *Session, _ *fakeUse) { s.OwnerGone() }, nil},
		{"it stops working", fine, func(_ *Session, u *fakeUse) { close(u.failed) }, errFailed},
		{"it does not begin", func(*connect.Lease) error { return errFailed }, nil, errFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, use := connectProcess(t), newFakeUse(tc.begin)
			s, events, err := p.Connect(t.Context(), Request{Use: use})
			if err != nil {
				t.Fatal(err)
			}
			var active, told bool
			for e := range events {
				switch e := e.(type) {
				case Activated:
					active = true
					if st := s.Status(); st.Target != "connect --test" || st.Namespace != "default" || st.Transport != "pod-proxy" || !st.Connect {
						t.Errorf("status %+v", st)
					}
					tc.end(s, use)
				case Message:
					told = told || e.Text == "hello from default"
				case Outcome:
					if !errors.Is(e.Err, tc.want) || !e.Unchanged || !e.Restored {
						t.Errorf("outcome %+v, want %v", e, tc.want)
					}
				}
			}
			if active != (tc.end != nil) || !told {
				t.Errorf("active: %v, told: %v", active, told)
			}
			if got := use.history(); got != "begin end" {
				t.Errorf("calls: %s", got)
			}
		})
	}
}

// TestConnectedCommandWithoutASandbox gets the proxy, and nothing else of the pod's.
func TestConnectedCommandWithoutASandbox(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	served := make(chan error, 1)
	go func() { served <- web.Serve(lis) }()
	t.Cleanup(func() {
		_ = web.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})

	p := connectProcess(t)
	s, events, err := p.Connect(t.Context(), Request{Plain: true, Command: []string{"curl"}})
	if err != nil {
		t.Fatal(err)
	}
	for e := range events {
		switch e := e.(type) {
		case Prepare:
			if !e.Plain || e.Hostname != "" || len(e.Env) > 0 || e.Root != "" {
				t.Errorf("prepared %+v", e)
			}
			proxy, err := url.Parse("http://" + e.Proxy)
			if err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
			answer, err := client.Get("http://" + lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if text, _ := io.ReadAll(answer.Body); string(text) != "hello" {
				t.Errorf("through the proxy: %q", text)
			}
			_ = answer.Body.Close()
			s.ChildStarted(1)
		case Activated:
			s.ChildExited("status 0", nil)
		case StopChild:
		case Outcome:
			if e.Err != nil || !e.Unchanged {
				t.Errorf("outcome %+v", e)
			}
		}
	}
}

// TestConnectRecordIsUndone: an agent that a dead process has left is taken away, by its record alone.
func TestConnectRecordIsUndone(t *testing.T) {
	l := newLab(t)
	book, err := ledger.Open(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := book.Begin(ledger.Record{
		Session: "k3f9qz", Target: "the connection to shop", Namespace: "shop", Connection: json.RawMessage("{}"), Steps: []ledger.Step{ConnectUndo()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := entry.Release(); err != nil {
		t.Fatal(err)
	}
	p := l.process(0)
	orphans, err := p.Replay(t.Context())
	if err != nil || len(orphans) != 1 || !orphans[0].Status().Connect {
		t.Fatalf("orphans %v, %v", orphans, err)
	}
	<-orphans[0].Done()
	p.end()
	if !slices.Contains(l.world.log, "DeleteConnect k3f9qz") {
		t.Errorf("history %v", l.world.log)
	}
	if left, err := book.Records(); err != nil || len(left) > 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}
