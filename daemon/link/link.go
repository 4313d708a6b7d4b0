// Package link keeps a tunnel to one agent: it finds the best way to the agent's pod, dials, and dials again when the tunnel
// breaks and the pod still lives. What goes through the tunnel is its users' business.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/transport"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// startPatience is how long an agent whose container runs may take to listen.
	startPatience = 20 * time.Second
	// redialLimit is the longest pause between tries to reach an agent that lives.
	redialLimit = 5 * time.Second
	// redialPatience is how long a connection waits for a tunnel that is being dialled
	// again, before it is told that the network is away.
	redialPatience = 10 * time.Second
	// livesPatience bounds the question whether the pod lives.
	livesPatience = 5 * time.Second
)

// Cluster is what a link asks of a Kubernetes cluster; *kube.Cluster is one.
type Cluster interface {
	// Server is the API server's URL.
	Server() string
	// DialPodProxy and DialPortForward open raw connections to a port of a pod through the API server.
	DialPodProxy(ctx context.Context, namespace, pod string, port int32) (net.Conn, error)
	DialPortForward(ctx context.Context, namespace, pod string, port int32, kind string) (net.Conn, error)
}

// Config is what a Link needs. All fields without a stated zero are needed.
type Config struct {
	Cluster Cluster
	Pod     kube.AgentPod
	Port    int32  // the agent's own
	Image   string // the agent's, for messages
	Keys    *tunnel.Keys
	// Lives fails when the agent's pod is known to be gone. That it could not be asked is no
	// such knowledge.
	Lives func(ctx context.Context) error
	// Heard is told each event of the agent, by one goroutine. An error means that the agent is lost. Nil: nobody wants to know.
	Heard func(e tunnel.Event) error
	// Warn takes lines for the user.
	Warn   func(format string, args ...any)
	Logger *slog.Logger
}

// Link is a tunnel to an agent. Its methods are safe for concurrent use.
type Link struct {
	cfg    Config
	log    *slog.Logger
	ladder *transport.Ladder
	stop   context.CancelFunc
	loops  sync.WaitGroup
	gone   chan struct{}
	woke   chan struct{} // has room for one word that this machine has slept

	down, up atomic.Uint64 // bytes of the agent's, and for it

	mu      sync.Mutex
	client  *tunnel.Client
	renewed chan struct{} // closed when client has been replaced
	err     error
}

func open(ctx context.Context, cfg Config, list []transport.Way) (*Link, error) {
	tlsConfig, err := cfg.Keys.ClientTLS()
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &Link{
		cfg: cfg, log: cfg.Logger, stop: stop, gone: make(chan struct{}), woke: make(chan struct{}, 1), renewed: make(chan struct{}),
		ladder: &transport.Ladder{Ways: list, Handshake: tunnel.ClientHandshake(tlsConfig), Logger: cfg.Logger},
	}
	client, err := l.firstConnect(ctx)
	if err != nil {
		stop()
		return nil, err
	}
	l.client = client
	l.loops.Go(func() { l.superviseLoop(life) })
	l.loops.Go(func() {
		ticker := time.NewTicker(wakeEvery)
		defer ticker.Stop()
		l.wakeLoop(life, ticker.C, wall)
	})
	return l, nil
}

func (l *Link) connect(ctx context.Context) (*tunnel.Client, error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		c, err := l.ladder.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return &counted{Conn: c, link: l}, nil
	}
	return tunnel.Connect(ctx, tunnel.ClientConfig{Dial: dial, Logger: l.log})
}

// firstConnect connects to an agent that has just been started: its container runs, but
// its process may not listen yet, which whoever dials for us reports as a refusal.
func (l *Link) firstConnect(ctx context.Context) (*tunnel.Client, error) {
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

func (l *Link) noAgent(refused error) error {
	l.log.Warn("no agent answers", "error", refused)
	return &NoAgentError{Pod: l.cfg.Pod.Name, Port: l.cfg.Port, Image: l.cfg.Image, Err: refused}
}

// Current is the tunnel in use, which may be broken, and what is closed when it is replaced.
func (l *Link) Current() (*tunnel.Client, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client, l.renewed
}

// Working is a tunnel that stands; it waits 10 s at most for one. The error is Err's where the agent is lost.
func (l *Link) Working(ctx context.Context) (*tunnel.Client, error) {
	patience := time.NewTimer(redialPatience)
	defer patience.Stop()
	for {
		client, renewed := l.Current()
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
func (l *Link) superviseLoop(ctx context.Context) {
	for {
		client, _ := l.Current()
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
func (l *Link) hear(ctx context.Context, client *tunnel.Client) {
	events := client.Events()
	for {
		select {
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			if l.cfg.Heard == nil {
				continue
			}
			if err := l.cfg.Heard(e); err != nil {
				l.lose(err)
			}
		case <-client.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// lose says, once, that there is no agent any more.
func (l *Link) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.gone)
	}
}

// redial tries until the agent answers or its pod is no more.
func (l *Link) redial(ctx context.Context) (*tunnel.Client, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, redialLimit) {
		client, err := l.connect(ctx)
		if err == nil {
			return client, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.log.Warn("dialling the agent again failed", "error", err)
		if err := l.lives(ctx); err != nil {
			return nil, err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-timer.C:
		case <-l.woke: // it is another time, and perhaps another network
			timer.Stop()
			wait = 50 * time.Millisecond
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

func (l *Link) lives(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, livesPatience)
	defer cancel()
	return l.cfg.Lives(ctx)
}

// replace takes a new tunnel into use.
func (l *Link) replace(client *tunnel.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client = client
	close(l.renewed)
	l.renewed = make(chan struct{})
}

// Transport is the name of the way that was taken.
func (l *Link) Transport() string { return l.ladder.Chosen() }

// Traffic is how many bytes have come from the agent and gone to it, in all tunnels, with what carries them but for the encryption.
func (l *Link) Traffic() (down, up uint64) { return l.down.Load(), l.up.Load() }

// counted is a tunnel's connection.
type counted struct {
	net.Conn
	link *Link
}

// Read implements net.Conn.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.link.down.Add(uint64(max(n, 0)))
	return n, err
}

// Write implements net.Conn.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.link.up.Add(uint64(max(n, 0)))
	return n, err
}

// Gone is closed when the agent is lost for good; Err then says why.
func (l *Link) Gone() <-chan struct{} { return l.gone }

// Err is why the agent is lost; nil: it is not.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close ends the tunnel with all its connections, and waits for all goroutines.
func (l *Link) Close() error {
	l.stop()
	client, _ := l.Current()
	err := client.Close()
	l.loops.Wait()
	// The supervisor may have replaced the tunnel just before it ended.
	if last, _ := l.Current(); last != client {
		err = errors.Join(err, last.Close())
	}
	return err
}
