package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/internal/agenttest"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is an agent's end of the tunnel on loopback, and a cluster through which it is reached, as pod-proxy.
type lab struct {
	t     *testing.T
	agent *agenttest.Agent
	keys  *tunnel.Keys

	mu    sync.Mutex
	lives error
	conns []net.Conn
	down  bool
	mute  bool // connections carry nothing any more, but stay
	early int  // dials that come before the agent listens
}

func (a *lab) Server() string { return "https://test" }

func (a *lab) DialPodProxy(ctx context.Context, _, _ string, _ int32) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.early > 0 {
		a.early--
		return nil, errors.New("error dialing backend: dial tcp 10.0.0.1:15100: connect: connection refused")
	}
	if a.down {
		return nil, errors.New("connection refused")
	}
	c, err := a.agent.Dial(ctx)
	if err != nil {
		return nil, err
	}
	a.conns = append(a.conns, c)
	return &mutable{c, a}, nil
}

func (a *lab) DialPortForward(context.Context, string, string, int32, string) (net.Conn, error) {
	return nil, errors.New("no such way here")
}

// mutable is a connection that carries nothing while the lab is mute: packets are lost on the way.
type mutable struct {
	net.Conn
	lab *lab
}

func (c *mutable) Write(p []byte) (int, error) {
	c.lab.mu.Lock()
	mute := c.lab.mute
	c.lab.mu.Unlock()
	if mute {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// cut breaks every connection there is.
func (a *lab) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.conns = nil
}

// newLab starts the agent's end; the test's end ends it.
func newLab(t *testing.T) *lab {
	t.Helper()
	keys, err := tunnel.NewKeys("k3f9qz", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	agent, err := agenttest.Start(t.Context(), keys.AgentFiles(), tunnel.ServerConfig{
		View: func() (*tunnel.PodView, error) { return &tunnel.PodView{Hostname: "web-pod"}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := agent.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &lab{t: t, agent: agent, keys: keys}
}

func (a *lab) config(warn func(string, ...any)) Config {
	return Config{
		Cluster: a, Port: 15100, Keys: a.keys, Image: "teleswap.dev/none",
		Pod:   kube.AgentPod{Namespace: "default", Name: "agent-pod"},
		Lives: func(context.Context) error { a.mu.Lock(); defer a.mu.Unlock(); return a.lives },
		Warn:  warn, Logger: slog.New(slog.DiscardHandler),
	}
}

// dial opens a link; the warnings it gives arrive in the channel.
func (a *lab) dial(d *Dialer) (*Link, chan string) {
	a.t.Helper()
	warned := make(chan string, 8)
	l, err := d.Dial(a.t.Context(), a.config(func(format string, args ...any) { warned <- fmt.Sprintf(format, args...) }))
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
	a := newLab(t)
	a.early = 3
	if l, _ := a.dial(&Dialer{Only: "pod-proxy"}); l.Transport() != "pod-proxy" {
		t.Errorf("by %s, want pod-proxy", l.Transport())
	}
}

func TestLinkSaysThatThereIsNoAgent(t *testing.T) {
	a := newLab(t)
	a.early = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		_, err := (&Dialer{Only: "pod-proxy"}).Dial(t.Context(), a.config(nil))
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
	a := newLab(t)
	l, warned := a.dial(new(Dialer))
	first, renewed := l.Current()
	a.cut()
	if text := <-warned; !strings.Contains(text, "stands again, by pod-proxy") {
		t.Errorf("warned %q, want that the tunnel stands again", text)
	}
	<-renewed
	client, err := l.Working(t.Context())
	if err != nil || client == first {
		t.Fatalf("working: %v, the broken one: %v", err, client == first)
	}
	if view, err := client.PodView(t.Context()); err != nil || view.GetHostname() != "web-pod" {
		t.Errorf("view after the break: %v, %v", view, err)
	}
	select {
	case <-l.Gone():
		t.Errorf("the agent counts as gone: %v", l.Err())
	default:
	}
}

func TestLinkIsLostWithItsPod(t *testing.T) {
	a := newLab(t)
	l, _ := a.dial(new(Dialer))
	a.mu.Lock()
	a.down, a.lives = true, errors.New("pod deleted")
	a.mu.Unlock()
	a.cut()
	<-l.Gone()
	if err := l.Err(); !errors.Is(err, a.lives) {
		t.Errorf("lost: %v, want that it was deleted", err)
	}
	if _, err := l.Working(t.Context()); !errors.Is(err, a.lives) {
		t.Errorf("a lost agent still answers: %v", err)
	}
}

func TestDialerRemembersTheWay(t *testing.T) {
	a := newLab(t)
	d := new(Dialer)
	a.dial(d)
	if got := d.last["https://test"]; got != "pod-proxy" {
		t.Errorf("remembers %q, want pod-proxy", got)
	}
}

func TestDialerTakesOnlyTheWayThatIsNamed(t *testing.T) {
	a := newLab(t)
	l, _ := a.dial(&Dialer{Only: "pod-proxy"})
	if l.Transport() != "pod-proxy" {
		t.Errorf("by %s, want pod-proxy", l.Transport())
	}
	_, err := (&Dialer{Only: "carrier-pigeon"}).Dial(t.Context(), a.config(nil))
	if err == nil || !strings.Contains(err.Error(), "port-forward-spdy") {
		t.Errorf("got %v, want the ways that there are", err)
	}
}

func TestDialOfAnAgentThatIsNotOurs(t *testing.T) {
	a := newLab(t)
	strangers, err := tunnel.NewKeys("k3f9qz", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := a.config(nil)
	cfg.Keys = strangers
	_, err = new(Dialer).Dial(t.Context(), cfg)
	if err == nil {
		t.Fatal("an agent of another session was accepted")
	}
}

// TestLinkLooksAfterASleep: a tunnel that nobody answers on is dialled again as soon as the clock has jumped, long before heartbeats
// would miss anything; one that is fine is left alone.
func TestLinkLooksAfterASleep(t *testing.T) {
	a := newLab(t)
	l, warned := a.dial(new(Dialer))
	first, _ := l.Current()
	ticks, clock := make(chan time.Time), make(chan time.Time, 4)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.wakeLoop(ctx, ticks, func() time.Time { return <-clock })
	}()
	now := time.Now()
	clock <- now
	clock <- now.Add(wakeEvery + wakeJump/2) // merely late
	ticks <- now
	now = now.Add(time.Hour)
	clock <- now
	ticks <- now
	clock <- now.Add(wakeEvery)
	ticks <- now // it has looked
	if client, _ := l.Current(); client != first || first.Err() != nil {
		t.Fatalf("a tunnel that stands was given up: %v", first.Err())
	}
	a.mu.Lock()
	a.mute = true
	a.mu.Unlock()
	begun := time.Now()
	clock <- now.Add(time.Hour)
	ticks <- now
	<-first.Done()
	if err := first.Err(); !errors.Is(err, errSlept) {
		t.Errorf("lost: %v, want by the sleep", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s to find out", took)
	}
	a.mu.Lock()
	a.mute = false
	a.mu.Unlock()
	<-warned
	if _, err := l.Working(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
}
