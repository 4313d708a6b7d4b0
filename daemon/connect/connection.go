package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/dnsresolver"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// answerPatience is how long the API server may take before it is said that it does.
	answerPatience = 3 * time.Second
	// patience is how long what wants to use a connection waits for it to be mended.
	patience = 10 * time.Second
	// firstRetry and lastRetry are the pauses between tries to mend it.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	// mendPatience bounds one try to mend it.
	mendPatience = time.Minute
	// settlePatience bounds the tries to tell the cluster that the agent serves; one that has begun gets its own time.
	settlePatience = 10 * time.Second
	// gonePatience bounds the first try to take the agent away; who comes after that does not give up.
	gonePatience = 15 * time.Second
)

// connection is to one namespace of one cluster, through an agent of its own.
type connection struct {
	cfg     Config
	log     *slog.Logger
	key     string
	req     Request
	cluster Cluster
	stop    context.CancelFunc
	ready   chan struct{}   // closed when it stands for the first time, or never will
	over    <-chan struct{} // closed when it has ended
	// until returns what is closed when it has ended, or when the func is called.
	until   func() (<-chan struct{}, context.CancelFunc)
	ended   context.CancelFunc // closes over, and what until has returned
	queries atomic.Uint64
	users   int // guarded by the hub's mutex

	// What follows is set before ready is closed, and not changed.
	ranges kube.Ranges
	names  *dnsresolver.Names

	// The agent that there is; they change with each that is made, and are run's alone.
	session string
	settled bool // its Job stays; else it has a deadline
	keys    *tunnel.Keys
	entry   Entry // nil: there is none
	retired sync.WaitGroup

	mu        sync.Mutex
	listeners map[*Notify]struct{} // of those who wait for it
	waiting   string               // what they were told last
	watchers  map[*Notify]struct{} // of those who use it
	link      *link.Link
	renewed   chan struct{} // closed when link has been replaced
	view      *tunnel.PodView
	pod       kube.AgentPod
	problem   string // what keeps it from being mended; empty: it stands
	err       error  // why it never stood, or has ended
	down, up  uint64 // bytes of the links before this one
}

func newConnection(life context.Context, cfg Config, log *slog.Logger, key string, req Request, cluster Cluster) *connection {
	standing, ended := context.WithCancel(context.WithoutCancel(life))
	return &connection{
		cfg: cfg, log: log.With("connection", key), key: key, req: req, cluster: cluster,
		ready: make(chan struct{}), over: standing.Done(), ended: ended, renewed: make(chan struct{}), listeners: map[*Notify]struct{}{}, watchers: map[*Notify]struct{}{},
		until: func() (<-chan struct{}, context.CancelFunc) {
			ctx, cancel := context.WithCancel(standing)
			return ctx.Done(), cancel
		},
	}
}

// run is the connection's life. ctx ends when nobody wants it any more, after when there is no time left to tidy up.
func (c *connection) run(ctx, after context.Context) {
	err := c.begin(ctx)
	if err != nil {
		c.fail(err)
		close(c.ready)
	} else {
		close(c.ready)
		c.keepLoop(ctx)
		c.fail(errClosed)
	}
	c.ended()
	c.end(after)
}

func (c *connection) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// failure is why it never stood, or has ended; nil: it stands.
func (c *connection) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// listen has notify told what is being waited for, from what it is now on, until the returned func is called.
func (c *connection) listen(notify Notify) func() {
	if notify == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != "" {
		notify(c.waiting)
	}
	return c.joinLocked(c.listeners, notify)
}

// watch has notify told what becomes of the connection, until the returned func is called.
func (c *connection) watch(notify Notify) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joinLocked(c.watchers, notify)
}

// joinLocked adds one to those who are told something, until the returned func is called.
func (c *connection) joinLocked(to map[*Notify]struct{}, notify Notify) func() {
	key := &notify
	to[key] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(to, key)
	}
}

// warn tells those who use the connection what has become of it.
func (c *connection) warn(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	c.log.Warn(line)
	c.mu.Lock()
	defer c.mu.Unlock()
	for notify := range c.watchers {
		(*notify)(line)
	}
}

func (c *connection) tell(line string) {
	c.log.Info("waiting", "for", line)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = line
	for notify := range c.listeners {
		(*notify)(line)
	}
}

// begin stands it up for the first time.
func (c *connection) begin(ctx context.Context) error {
	slow := time.AfterFunc(answerPatience, func() { c.tell("waiting for the API server " + c.cluster.Server() + ", which does not answer yet") })
	err := c.cluster.CheckConnect(ctx)
	slow.Stop()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ranging, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { c.ranges = c.cluster.Ranges(ranging) })
	if err := c.standUp(ctx); err != nil {
		return err
	}
	wg.Wait()
	if c.names, err = c.namesOf(c.view); err != nil {
		return err
	}
	c.ranges = c.withOwn(c.ranges)
	c.log.Info("connected", "ranges", c.ranges.How)
	return nil
}

// withOwn adds the agent's own addresses to what is known of pods, where no range has them.
func (c *connection) withOwn(r kube.Ranges) kube.Ranges {
	if len(r.Pods) > 0 {
		return r
	}
	for _, text := range c.view.GetPodIps() {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		bits := 24
		if a.Is6() {
			bits = 64
		}
		if p, err := a.Prefix(bits); err == nil {
			r.Pods = append(r.Pods, p)
		}
	}
	if len(r.Pods) > 0 {
		r.How += fmt.Sprintf("; %v by the agent's own address", r.Pods)
	}
	return r
}

// standUp makes an agent and connects to it.
func (c *connection) standUp(ctx context.Context) error {
	id := c.cfg.NewID()
	keys, err := tunnel.NewKeys(id, c.cfg.Now())
	if err != nil {
		return err
	}
	if err := c.record(id); err != nil {
		return err
	}
	c.session, c.keys, c.settled = id, keys, false
	agent := kube.Connector{
		Session: id, Image: c.req.Image, PullPolicy: c.req.PullPolicy, Keys: keys.AgentFiles(),
		User: c.cfg.User, Host: c.cfg.Host, Since: c.cfg.Now(), AloneFor: c.cfg.AloneFor,
	}
	if err := c.cluster.CreateConnect(ctx, agent); err != nil {
		return err
	}
	return c.dial(ctx)
}

// settle has the agent's Job stay, now that the agent serves. That it fails costs nothing yet: keepLoop tries again.
func (c *connection) settle(ctx context.Context) {
	if c.settled {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	if err := c.cluster.SettleConnect(ctx, c.session); err != nil {
		c.log.Warn("the agent has a deadline still", "session", c.session, "error", err)
		return
	}
	c.settled = true
}

// record writes to the ledger how the agent of that id is taken away, before there is one. The agent before it, if any, is gone.
func (c *connection) record(id string) error {
	conn, err := c.cfg.Redact(c.req.Connection, c.cluster, c.cluster.Namespace())
	if err != nil {
		return fmt.Errorf("write the connection to the ledger: %w", err)
	}
	c.entry, err = c.cfg.Begin(ledger.Record{
		Session: id, Created: c.cfg.Now(), Target: "the connection to " + c.cluster.Namespace(), Namespace: c.cluster.Namespace(),
		Context: c.cluster.Context(), Connection: conn, Steps: []ledger.Step{c.cfg.Undo},
	})
	return err
}

// dial connects to the pod that the agent has now, and settles the agent. The link before, if any, is the caller's to retire.
func (c *connection) dial(ctx context.Context) error {
	pod, err := c.cluster.WaitConnect(ctx, c.session, c.tell)
	if err != nil {
		return err
	}
	id := c.session
	l, err := c.cfg.Dial(ctx, link.Config{
		Cluster: c.cluster, Pod: pod, Port: kube.ConnectPort, Image: c.req.Image, Keys: c.keys, Logger: c.log,
		Lives: func(ctx context.Context) error { return c.podLives(ctx, id, pod) },
		Heard: func(e tunnel.Event) error { return heard(e, pod) },
		Warn:  c.warn,
	})
	if err != nil {
		return err
	}
	client, err := l.Working(ctx)
	var view *tunnel.PodView
	if err == nil {
		view, err = client.PodView(ctx)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("ask the agent for its pod: %w", err), l.Close())
	}
	c.use(l, pod, view)
	c.settle(ctx)
	return nil
}

// use has those who wait for the connection use another link.
func (c *connection) use(l *link.Link, pod kube.AgentPod, view *tunnel.PodView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.pod, c.view, c.problem, c.waiting = l, pod, view, "", ""
	close(c.renewed)
	c.renewed = make(chan struct{})
}

// podLives fails when the pod is known to be gone.
func (c *connection) podLives(ctx context.Context, session string, was kube.AgentPod) error {
	pod, err := c.cluster.WaitConnect(ctx, session, nil)
	var missing *kube.NotFoundError
	switch {
	case errors.As(err, &missing):
		return err
	case err == nil && pod.Name != was.Name:
		return fmt.Errorf("pod %s was replaced by %s", was.Name, pod.Name)
	}
	return nil
}

// heard takes in what the agent tells: that its pod ends is all that matters.
func heard(e tunnel.Event, pod kube.AgentPod) error {
	if _, ends := e.(tunnel.PodShutdown); ends {
		return fmt.Errorf("pod %s was told to end: it was deleted, or its node is being drained", pod.Name)
	}
	return nil
}

// keepLoop mends the connection whenever its agent is lost. It ends with ctx.
func (c *connection) keepLoop(ctx context.Context) {
	for {
		l, _ := c.current()
		if !c.untilGone(ctx, l) {
			return
		}
		c.warn("the connection's agent is gone (%v); connecting again", l.Err())
		c.setProblem(l.Err())
		for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
			err := c.mend(ctx)
			now, _ := c.current()
			if now != l { // also where it was mended too late to be told
				c.retire(ctx, l)
			}
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				c.warn("connected again, by %s; connections through the agent before were lost", now.Transport())
				break
			}
			c.log.Warn("the connection could not be mended yet", "error", err)
			c.setProblem(err)
			timer := time.NewTimer(wait/2 + rand.N(wait))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

// untilGone waits until the link's agent is lost, and settles the agent meanwhile, if it is not. It is false when ctx has ended.
func (c *connection) untilGone(ctx context.Context, l *link.Link) bool {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		var again <-chan time.Time
		if !c.settled {
			again = time.After(wait/2 + rand.N(wait))
		}
		select {
		case <-again:
			c.settle(ctx)
		case <-l.Gone():
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// mend connects to the agent's next pod, or makes another agent where it is gone.
func (c *connection) mend(ctx context.Context) error {
	dialling, cancel := context.WithTimeout(ctx, mendPatience)
	defer cancel()
	err := c.dial(dialling)
	var missing *kube.NotFoundError
	if !errors.As(err, &missing) {
		return err
	}
	// It may have left its Secret.
	if err := c.takeAway(dialling); err != nil {
		return err
	}
	return c.standUp(dialling)
}

// retire lets go of a link when what it still carries has ended: a pod that was told to end serves on for a while.
func (c *connection) retire(ctx context.Context, l *link.Link) {
	c.retired.Go(func() {
		client, _ := l.Current()
		select {
		case <-client.Done():
		case <-ctx.Done():
		}
		if err := l.Close(); err != nil {
			c.log.Debug("close a link", "error", err)
		}
		down, up := l.Traffic()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.down, c.up = c.down+down, c.up+up
	})
}

func (c *connection) setProblem(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problem = err.Error()
}

// current is the link in use, and what is closed when it is replaced.
func (c *connection) current() (*link.Link, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link, c.renewed
}

// working is a tunnel that stands; it waits for one while the connection is being mended, but not for ever.
func (c *connection) working(ctx context.Context) (*tunnel.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the connection to the cluster is being mended"))
	defer cancel()
	for {
		l, renewed := c.current()
		client, _ := l.Current()
		select {
		case <-client.Done():
		default:
			return client, nil // also by a pod that was told to end, while there is no other
		}
		if client, err := l.Working(ctx); err == nil {
			return client, nil
		}
		select {
		case <-renewed:
		case <-c.over:
			return nil, c.failure()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// end lets go of the agent and takes it away.
func (c *connection) end(ctx context.Context) {
	if l, _ := c.current(); l != nil {
		if err := l.Close(); err != nil {
			c.log.Debug("close the link", "error", err)
		}
	}
	c.retired.Wait()
	taking, cancel := context.WithTimeout(ctx, gonePatience)
	defer cancel()
	session := c.session
	if err := c.takeAway(taking); err != nil {
		c.log.Warn("the agent is not taken away yet", "session", session, "error", err)
		c.abandon(ctx)
	}
	if err := c.cluster.Close(); err != nil {
		c.log.Debug("close the cluster", "error", err)
	}
}

// takeAway takes the agent away, if there is one, and forgets it.
func (c *connection) takeAway(ctx context.Context) error {
	if c.entry == nil {
		return nil
	}
	if err := c.cluster.DeleteConnect(ctx, c.entry.Record().Session, nil); err != nil {
		return err
	}
	if err := c.entry.Forget(); err != nil {
		// To take it away once more does no harm: the next start will.
		c.log.Warn("the record could not be removed", "error", errors.Join(err, c.entry.Release()))
	}
	c.entry = nil
	return nil
}

// abandon leaves the agent to who does not give up.
func (c *connection) abandon(ctx context.Context) {
	session := c.entry.Record().Session
	err := c.entry.Release()
	c.entry = nil
	if err == nil {
		err = c.cfg.Abandon(ctx, session)
	}
	if err != nil {
		c.log.Warn("the record is kept for the next start", "session", session, "error", err)
	}
}
