package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// agentLab is an agent's end of the tunnel on loopback, and a cluster through which it
// is reached, as pod-proxy.
type agentLab struct {
	*fakeCluster
	t    *testing.T
	addr string
	keys *tunnel.Keys

	server *tunnel.Server

	mu    sync.Mutex
	pod   string // the Deployment's pod
	conns []net.Conn
	down  bool
	early int // dials that come before the agent listens
}

// SetReady, Hold, HandOver and Laptop are tunnel.Control.
func (a *agentLab) SetReady(bool) error         { return nil }
func (a *agentLab) Hold() error                 { return nil }
func (a *agentLab) HandOver([]netip.Addr) error { return nil }
func (a *agentLab) Laptop(_, _ bool)            {}

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
	if a.early > 0 {
		a.early--
		return nil, errors.New("error dialing backend: dial tcp 10.0.0.1:15100: connect: connection refused")
	}
	if a.down {
		return nil, errors.New("connection refused")
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", a.addr)
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

// secured is a listener whose connections are through the handshake.
type secured struct {
	net.Listener
	handshake func(context.Context, net.Conn) (net.Conn, error)
}

func (l secured) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, err := l.handshake(context.Background(), raw); err == nil {
			return c, nil
		}
	}
}

// newAgentLab starts the agent's end; the test's end ends it.
func newAgentLab(t *testing.T, alter ...func(*tunnel.ServerConfig)) *agentLab {
	t.Helper()
	keys, err := tunnel.NewKeys("k3f9qz", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range keys.AgentFiles() {
		if err := os.WriteFile(dir+"/"+name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := tunnel.LoadAgentTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &agentLab{t: t, addr: lis.Addr().String(), keys: keys, pod: "agent-pod"}
	a.fakeCluster = &fakeCluster{world: newWorld(), gate: newGate(0)}
	scfg := tunnel.ServerConfig{
		View:    func() (*tunnel.PodView, error) { return &tunnel.PodView{Hostname: "web-pod"}, nil },
		Control: a,
	}
	for _, f := range alter {
		f(&scfg)
	}
	server := tunnel.NewServer(scfg)
	a.server = server
	served := make(chan error, 1)
	go func() { served <- server.Serve(secured{lis, tunnel.ServerHandshake(cfg)}) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("serving ended: %v", err)
		}
	})
	return a
}

// dial opens a link; the warnings it gives arrive in the channel.
func (a *agentLab) dial(d *LinkDialer) (Link, chan string) {
	a.t.Helper()
	warned := make(chan string, 8)
	l, err := d.Dial(a.t.Context(), LinkConfig{
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

func TestLinkWaitsUntilTheAgentListens(t *testing.T) {
	a := newAgentLab(t)
	a.early = 3
	if l, _ := a.dial(&LinkDialer{Only: "pod-proxy"}); l.Transport() != "pod-proxy" {
		t.Errorf("by %s, want pod-proxy", l.Transport())
	}
}

func TestLinkSaysThatThereIsNoAgent(t *testing.T) {
	a := newAgentLab(t)
	a.early = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		_, err := (&LinkDialer{Only: "pod-proxy"}).Dial(t.Context(), LinkConfig{
			Cluster: a, Image: "teleswap.dev/none", Port: 15100, Keys: a.keys, Pod: kube.AgentPod{Name: "agent-pod"}, Logger: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			t.Fatal("an agent was found")
		}
		for _, part := range []string{"15100", "agent-pod", "connection refused", "teleswap.dev/none", "--agent-image"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q lacks %q", err, part)
			}
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != 3 || len(lines[0]) > 100 || strings.Contains(lines[0], "refused") || lines[2] != "tried: pod-proxy (connection refused)" {
			t.Errorf("got\n%v\nwant what happened in one short line, what to do, and the ways", err)
		}
	})
}

func TestLinkDialsAgainWhileTheAgentLives(t *testing.T) {
	a := newAgentLab(t)
	l, warned := a.dial(new(LinkDialer))
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
			l, _ := a.dial(new(LinkDialer))
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

func TestDialerRemembersTheWay(t *testing.T) {
	a := newAgentLab(t)
	d := new(LinkDialer)
	a.dial(d)
	if got := d.last["https://test"]; got != "pod-proxy" {
		t.Errorf("remembers %q, want pod-proxy", got)
	}
}

func TestDialerTakesOnlyTheWayThatIsNamed(t *testing.T) {
	a := newAgentLab(t)
	l, _ := a.dial(&LinkDialer{Only: "pod-proxy"})
	if l.Transport() != "pod-proxy" {
		t.Errorf("by %s, want pod-proxy", l.Transport())
	}
	_, err := (&LinkDialer{Only: "carrier-pigeon"}).Dial(t.Context(), LinkConfig{
		Cluster: a, Port: 15100, Keys: a.keys, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "port-forward-spdy") {
		t.Errorf("got %v, want the ways that there are", err)
	}
}

func TestDialOfAnAgentThatIsNotOurs(t *testing.T) {
	a := newAgentLab(t)
	strangers, err := tunnel.NewKeys("k3f9qz", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = new(LinkDialer).Dial(t.Context(), LinkConfig{
		Cluster: a, Agent: "agent", Port: 15100, Keys: strangers, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		t.Fatal("an agent of another session was accepted")
	}
}
