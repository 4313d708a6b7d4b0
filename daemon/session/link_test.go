package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/internal/agenttest"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// agentLab is an agent's end of the tunnel on loopback, and a cluster through which it
// is reached, as pod-proxy.
type agentLab struct {
	*fakeCluster
	t     *testing.T
	agent *agenttest.Agent
	keys  *tunnel.Keys

	mu    sync.Mutex
	pod   string // the Deployment's pod
	conns []net.Conn
	down  bool
}

func (a *agentLab) WaitAgentRunning(context.Context, string, kube.Notify) (kube.AgentPod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pod == "" {
		return kube.AgentPod{}, &kube.NotFoundError{What: "deployment", Name: "agent"}
	}
	return kube.AgentPod{Namespace: "default", Name: a.pod}, nil
}

func (a *agentLab) DialPodProxy(ctx context.Context, _, _ string, _ int32) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down {
		return nil, errors.New("connection refused")
	}
	c, err := a.agent.Dial(ctx)
	if err == nil {
		a.conns = append(a.conns, c)
	}
	return c, err
}

// cut breaks every connection there is.
func (a *agentLab) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.conns = nil
}

// newAgentLab starts the agent's end; the test's end ends it.
func newAgentLab(t *testing.T, alter ...func(*tunnel.ServerConfig)) *agentLab {
	t.Helper()
	keys, err := tunnel.NewKeys("k3f9qz", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := &agentLab{t: t, keys: keys, pod: "agent-pod"}
	a.fakeCluster = &fakeCluster{world: newWorld(), gate: newGate(0)}
	cfg := tunnel.ServerConfig{View: func() (*tunnel.PodView, error) { return &tunnel.PodView{Hostname: "web-pod"}, nil }}
	for _, f := range alter {
		f(&cfg)
	}
	if a.agent, err = agenttest.Start(t.Context(), keys.AgentFiles(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.agent.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// dial opens a link; the warnings it gives arrive in the channel.
func (a *agentLab) dial() (Link, chan string) {
	a.t.Helper()
	warned := make(chan string, 8)
	l, err := LinkDialer{new(link.Dialer)}.Dial(a.t.Context(), LinkConfig{
		Cluster: a, Session: "k3f9qz", Agent: "agent", Port: 15100, Keys: a.keys,
		Pod:    kube.AgentPod{Namespace: "default", Name: "agent-pod"},
		Warn:   func(format string, _ ...any) { warned <- format },
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			a.t.Error(err)
		}
	})
	return l, warned
}

func TestLinkDialsAgainWhileTheAgentLives(t *testing.T) {
	a := newAgentLab(t)
	l, warned := a.dial()
	if l.Transport() != "pod-proxy" {
		t.Errorf("by %s, want pod-proxy", l.Transport())
	}
	if err := l.SetReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.cut()
	if text := <-warned; !strings.Contains(text, "stands again") {
		t.Errorf("warned %q, want that the tunnel stands again", text)
	}
	view, err := l.View(t.Context())
	if err != nil || view.GetHostname() != "web-pod" {
		t.Errorf("view after the break: %v, %v", view, err)
	}
	select {
	case <-l.Gone():
		t.Errorf("the agent counts as gone: %v", l.Err())
	default:
	}
}

func TestLinkIsLostWithItsPod(t *testing.T) {
	for name, pod := range map[string]string{"deleted": "", "replaced": "another-pod"} {
		t.Run(name, func(t *testing.T) {
			a := newAgentLab(t)
			l, _ := a.dial()
			a.mu.Lock()
			a.down, a.pod = true, pod
			a.mu.Unlock()
			a.cut()
			<-l.Gone()
			if err := l.Err(); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("lost: %v, want that it was %s", err, name)
			}
			if _, err := l.View(t.Context()); err == nil {
				t.Error("a lost agent still answers")
			}
		})
	}
}
