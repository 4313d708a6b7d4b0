package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// tunnels is where a link gets the tunnel that stands; *link.Link is one.
type tunnels interface {
	Working(ctx context.Context) (*tunnel.Client, error)
	Transport() string
	Gone() <-chan struct{}
	Err() error
	Close() error
}

// agentLink is a Link over a tunnel that is dialled again when it breaks.
type agentLink struct {
	tunnels
	cfg  LinkConfig
	log  *slog.Logger
	stop context.CancelFunc
	// queries counts the questions that were put to the pod's resolver.
	queries atomic.Uint64
	loops   sync.WaitGroup
	quiet   chan struct{}
	// attached brings what serves to the accepting loop, once.
	attached chan served
	// outlets brings a proxy to its loop, once.
	outlets chan outlet
	// settled brings the neighbours to their loop, once.
	settled chan *neighbours

	logsMu sync.Mutex
	logs   *tunnel.LogStream // of logsOf
	logsOf *tunnel.Client

	mu        sync.Mutex
	stack     *netstack.Stack
	near      *neighbours          // nil before Attach
	listening *tunnel.PodListening // the last word; nil before the first
	ready     bool
	held      bool
}

// LinkDialer opens links to sessions' agents. It is safe for concurrent use.
type LinkDialer struct{ *link.Dialer }

// Dial opens the tunnel to a session's agent. ctx bounds the dialling only; the caller
// closes the link.
func (d LinkDialer) Dial(ctx context.Context, cfg LinkConfig) (Link, error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := newAgentLink(cfg, stop)
	dialled, err := d.Dialer.Dial(ctx, link.Config{
		Cluster: cfg.Cluster, Pod: cfg.Pod, Port: cfg.Port, Image: cfg.Image, Keys: cfg.Keys,
		Lives: l.podLives, Heard: l.heard, Warn: cfg.Warn, Logger: cfg.Logger,
	})
	if err != nil {
		stop()
		return nil, err
	}
	l.tunnels = dialled
	l.loops.Go(func() { l.acceptLoop(life) })
	l.loops.Go(func() { l.neighbourLoop(life) })
	l.loops.Go(func() { l.outletLoop(life) })
	return l, nil
}

// newAgentLink makes one without its tunnels and loops.
func newAgentLink(cfg LinkConfig, stop context.CancelFunc) *agentLink {
	return &agentLink{
		cfg: cfg, log: cfg.Logger, stop: stop, quiet: make(chan struct{}),
		attached: make(chan served, 1), outlets: make(chan outlet, 1), settled: make(chan *neighbours, 1),
	}
}

// heard takes in what the agent tells.
func (l *agentLink) heard(e tunnel.Event) error {
	switch e := e.(type) {
	case tunnel.PodShutdown:
		// Ours or somebody else's doing: the session knows whether it restores.
		return &PodEndsError{Pod: l.cfg.Pod.Name}
	case tunnel.PodListening:
		l.heardListening(e)
	case tunnel.Quiet:
		l.hush()
	case tunnel.ListenFailed:
		l.cfg.Warn("the agent cannot listen on port %d in the pod: %v", e.Port, e.Err)
	}
	return nil
}

// hush says, once, that the agent that is being deleted gets nothing new any more.
func (l *agentLink) hush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeOnce(l.quiet)
}

// podLives fails when the agent's pod is known to be gone. That the API server cannot
// be asked is no such knowledge.
func (l *agentLink) podLives(ctx context.Context) error {
	pod, err := l.cfg.Cluster.WaitAgentRunning(ctx, l.cfg.Agent, nil)
	var missing *kube.NotFoundError
	switch {
	case errors.As(err, &missing):
		return fmt.Errorf("deployment %s was deleted", l.cfg.Agent)
	case err == nil && pod.Name != l.cfg.Pod.Name:
		return fmt.Errorf("pod %s was replaced by %s", l.cfg.Pod.Name, pod.Name)
	}
	return nil
}

// View implements Link.
func (l *agentLink) View(ctx context.Context) (*tunnel.PodView, error) {
	client, err := l.Working(ctx)
	if err != nil {
		return nil, err
	}
	return client.PodView(ctx)
}

// SetReady implements Link.
func (l *agentLink) SetReady(ctx context.Context) error {
	l.mu.Lock()
	l.ready = true
	l.mu.Unlock()
	client, err := l.Working(ctx)
	if err != nil {
		return err
	}
	return client.SetReady(ctx, true)
}

// Hold implements Link.
func (l *agentLink) Hold(ctx context.Context) error {
	l.mu.Lock()
	l.held = true
	l.mu.Unlock()
	client, err := l.Working(ctx)
	if err != nil {
		return err
	}
	return client.Hold(ctx)
}

// Retire implements Link.
func (l *agentLink) Retire(ctx context.Context) error {
	l.mu.Lock()
	l.ready = false
	l.mu.Unlock()
	client, err := l.Working(ctx)
	if err != nil {
		return err
	}
	return client.SetReady(ctx, false)
}

// HandOver implements Link.
func (l *agentLink) HandOver(ctx context.Context, pods []netip.Addr) error {
	client, err := l.Working(ctx)
	if err != nil {
		return err
	}
	return client.HandOver(ctx, pods)
}

// Quiet implements Link.
func (l *agentLink) Quiet() <-chan struct{} { return l.quiet }

// Close implements Link.
func (l *agentLink) Close() error {
	l.stop()
	err := l.tunnels.Close()
	l.mu.Lock()
	stack := l.stack
	l.mu.Unlock()
	if stack != nil {
		err = errors.Join(err, stack.Close())
	}
	l.loops.Wait()
	if err != nil && strings.Contains(err.Error(), "closed") {
		return nil
	}
	return err
}
