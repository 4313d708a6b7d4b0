package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/transport"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// podIPPatience is short: either packets reach the pods' network, or they do not.
	podIPPatience = time.Second
	wayPatience   = 10 * time.Second
	// startPatience is how long an agent whose container runs may take to listen.
	startPatience = 20 * time.Second
	// redialLimit is the longest pause between tries to reach an agent that lives.
	redialLimit = 5 * time.Second
	// redialPatience is how long a connection of the process waits for a tunnel that
	// is being dialled again, before it is told that the network is away.
	redialPatience = 10 * time.Second
)

// agentLink is a Link over the transport ladder, which dials again when the tunnel
// breaks and the agent's pod still lives.
type agentLink struct {
	cfg    LinkConfig
	log    *slog.Logger
	ladder *transport.Ladder
	stop   context.CancelFunc
	loops  sync.WaitGroup
	gone   chan struct{}
	quiet  chan struct{}
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
	client    *tunnel.Client
	renewed   chan struct{} // closed when client has been replaced
	stack     *netstack.Stack
	near      *neighbours          // nil before Attach
	listening *tunnel.PodListening // the last word; nil before the first
	ready     bool
	held      bool
	err       error
}

// LinkDialer opens links and remembers, for each API server, the way that worked last.
// It is safe for concurrent use; its zero value is ready.
type LinkDialer struct {
	// Only is the one way to take, by its name; empty: the whole ladder.
	Only string

	mu   sync.Mutex
	last map[string]string // name of a way, by the API server's URL
}

// Dial opens the tunnel to a session's agent. ctx bounds the dialling only; the caller
// closes the link.
func (d *LinkDialer) Dial(ctx context.Context, cfg LinkConfig) (Link, error) {
	server := cfg.Cluster.Server()
	d.mu.Lock()
	last := d.last[server]
	d.mu.Unlock()
	list := transport.Preferring(last, ways(cfg))
	if d.Only != "" {
		list = slices.DeleteFunc(list, func(w transport.Way) bool { return w.Name != d.Only })
		if len(list) == 0 {
			return nil, fmt.Errorf("no way to the agent is called %q\n"+
				"there are %s; see TELESWAP_TRANSPORT in the user guide", d.Only, wayNames(ways(cfg)))
		}
	}
	l, err := dialAgent(ctx, cfg, list)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = map[string]string{}
	}
	d.last[server] = l.Transport()
	return l, nil
}

func dialAgent(ctx context.Context, cfg LinkConfig, list []transport.Way) (*agentLink, error) {
	tlsConfig, err := cfg.Keys.ClientTLS()
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &agentLink{
		cfg: cfg, log: cfg.Logger, stop: stop, gone: make(chan struct{}), quiet: make(chan struct{}), renewed: make(chan struct{}),
		attached: make(chan served, 1), outlets: make(chan outlet, 1), settled: make(chan *neighbours, 1),
		ladder: &transport.Ladder{Ways: list, Handshake: tunnel.ClientHandshake(tlsConfig), Logger: cfg.Logger},
	}
	client, err := l.firstConnect(ctx)
	if err != nil {
		stop()
		return nil, err
	}
	l.client = client
	l.loops.Go(func() { l.superviseLoop(life) })
	l.loops.Go(func() { l.acceptLoop(life) })
	l.loops.Go(func() { l.neighbourLoop(life) })
	l.loops.Go(func() { l.outletLoop(life) })
	return l, nil
}

// ways are the ladder to an agent.
func ways(cfg LinkConfig) []transport.Way {
	c, pod := cfg.Cluster, cfg.Pod
	forward := func(kind string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return c.DialPortForward(ctx, pod.Namespace, pod.Name, cfg.Port, kind)
		}
	}
	var list []transport.Way
	if pod.IP.IsValid() {
		direct := transport.PodIP(netip.AddrPortFrom(pod.IP, uint16(cfg.Port)))
		direct.Timeout = podIPPatience
		list = append(list, direct)
	}
	return append(list,
		transport.Way{Name: "pod-proxy", Timeout: wayPatience, Dial: func(ctx context.Context) (net.Conn, error) {
			return c.DialPodProxy(ctx, pod.Namespace, pod.Name, cfg.Port)
		}},
		transport.Way{Name: "port-forward-websocket", Timeout: wayPatience, Dial: forward("websocket")},
		transport.Way{Name: "port-forward-spdy", Timeout: wayPatience, Dial: forward("spdy")},
	)
}

func wayNames(list []transport.Way) string {
	names := make([]string, 0, len(list))
	for _, w := range list {
		names = append(names, w.Name)
	}
	return strings.Join(names, ", ")
}

func (l *agentLink) connect(ctx context.Context) (*tunnel.Client, error) {
	return tunnel.Connect(ctx, tunnel.ClientConfig{Dial: l.ladder.Dial, Logger: l.log})
}

// firstConnect connects to an agent that has just been started: its container runs, but
// its process may not listen yet, which whoever dials for us reports as a refusal.
func (l *agentLink) firstConnect(ctx context.Context) (*tunnel.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var refused error
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		client, err := l.connect(ctx)
		if err == nil {
			return client, nil
		}
		if refused != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, l.noAgent(refused)
		}
		// API server and kubelet pass the pod's answer on as text only.
		if !strings.Contains(err.Error(), "connection refused") {
			return nil, err
		}
		refused = err
		l.log.Debug("the agent does not listen yet", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, l.noAgent(refused)
		}
	}
}

func (l *agentLink) noAgent(refused error) error {
	l.log.Warn("no agent answers", "error", refused)
	return &NoAgentError{Pod: l.cfg.Pod.Name, Port: l.cfg.Port, Image: l.cfg.Image, Err: refused}
}

// current is the client in use, and what is closed when it is replaced.
func (l *agentLink) current() (*tunnel.Client, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client, l.renewed
}

// working is a client whose tunnel stands; it waits a while for one.
func (l *agentLink) working(ctx context.Context) (*tunnel.Client, error) {
	patience := time.NewTimer(redialPatience)
	defer patience.Stop()
	for {
		client, renewed := l.current()
		select {
		case <-client.Done():
		default:
			return client, nil
		}
		select {
		case <-renewed:
		case <-l.gone:
			return nil, l.Err()
		case <-patience.C:
			return nil, fmt.Errorf("the tunnel is broken: %w", client.Err())
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// superviseLoop listens to the agent and dials again when the tunnel breaks. It ends
// when the link is closed or the agent is lost.
func (l *agentLink) superviseLoop(ctx context.Context) {
	for {
		client, _ := l.current()
		l.hear(ctx, client)
		if ctx.Err() != nil || l.Err() != nil {
			return
		}
		l.log.Warn("the tunnel broke", "error", client.Err())
		err := client.Err()
		if closeErr := client.Close(); closeErr != nil {
			l.log.Debug("close the broken tunnel", "error", closeErr)
		}
		next, dialErr := l.redial(ctx)
		if ctx.Err() != nil {
			return
		}
		if dialErr != nil {
			l.lose(fmt.Errorf("%w (the tunnel broke: %w)", dialErr, err))
			return
		}
		l.replace(next)
		l.cfg.Warn("the tunnel broke and stands again, by %s; connections through it were lost", l.Transport())
	}
}

// hear takes in what the agent tells, until its tunnel ends.
func (l *agentLink) hear(ctx context.Context, client *tunnel.Client) {
	events := client.Events()
	for {
		select {
		case e, open := <-events:
			switch e := e.(type) {
			case tunnel.PodShutdown:
				// Ours or somebody else's doing: the session knows whether it restores.
				l.lose(&PodEndsError{Pod: l.cfg.Pod.Name})
			case tunnel.PodListening:
				l.heardListening(e)
			case tunnel.Quiet:
				l.hush()
			case tunnel.ListenFailed:
				l.cfg.Warn("the agent cannot listen on port %d in the pod: %v", e.Port, e.Err)
			}
			if !open {
				events = nil
			}
		case <-client.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// lose says, once, that there is no agent any more.
func (l *agentLink) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.gone)
	}
}

// hush says, once, that the agent that is being deleted gets nothing new any more.
func (l *agentLink) hush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeOnce(l.quiet)
}

// redial tries until the agent answers or its pod is no more.
func (l *agentLink) redial(ctx context.Context) (*tunnel.Client, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, redialLimit) {
		client, err := l.connect(ctx)
		if err == nil {
			return client, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.log.Warn("dialling the agent again failed", "error", err)
		if err := l.podLives(ctx); err != nil {
			return nil, err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// podLives fails when the agent's pod is known to be gone. That the API server cannot
// be asked is no such knowledge.
func (l *agentLink) podLives(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
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

// replace takes a new client into use, and tells the agent what the old one had told.
func (l *agentLink) replace(client *tunnel.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client = client
	close(l.renewed)
	l.renewed = make(chan struct{})
}

// View implements Link.
func (l *agentLink) View(ctx context.Context) (*tunnel.PodView, error) {
	client, err := l.working(ctx)
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
	client, err := l.working(ctx)
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
	client, err := l.working(ctx)
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
	client, err := l.working(ctx)
	if err != nil {
		return err
	}
	return client.SetReady(ctx, false)
}

// HandOver implements Link.
func (l *agentLink) HandOver(ctx context.Context, pods []netip.Addr) error {
	client, err := l.working(ctx)
	if err != nil {
		return err
	}
	return client.HandOver(ctx, pods)
}

// Transport implements Link.
func (l *agentLink) Transport() string { return l.ladder.Chosen() }

// Gone implements Link.
func (l *agentLink) Gone() <-chan struct{} { return l.gone }

// Quiet implements Link.
func (l *agentLink) Quiet() <-chan struct{} { return l.quiet }

// Err implements Link.
func (l *agentLink) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close implements Link.
func (l *agentLink) Close() error {
	l.stop()
	client, _ := l.current()
	err := client.Close()
	l.mu.Lock()
	stack := l.stack
	l.mu.Unlock()
	if stack != nil {
		err = errors.Join(err, stack.Close())
	}
	l.loops.Wait()
	// The supervisor may have replaced the client just before it ended.
	if last, _ := l.current(); last != client {
		err = errors.Join(err, last.Close())
	}
	if err != nil && strings.Contains(err.Error(), "closed") {
		return nil
	}
	return err
}
