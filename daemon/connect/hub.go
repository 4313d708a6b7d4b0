package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/link"
)

// Cluster is what a connection asks of a Kubernetes cluster; *kube.Cluster is one.
type Cluster interface {
	link.Cluster
	Namespace() string
	Context() string
	CheckConnect(ctx context.Context) error
	CreateConnect(ctx context.Context, a kube.Connector) error
	SettleConnect(ctx context.Context, session string) error
	WaitConnect(ctx context.Context, session string, notify kube.Notify) (kube.AgentPod, error)
	DeleteConnect(ctx context.Context, session string, notify kube.Notify) error
	Ranges(ctx context.Context, more ...netip.Addr) kube.Ranges
	Close() error
}

// Entry is a record of the ledger that is held; *ledger.Entry is one.
type Entry interface {
	Record() ledger.Record
	Forget() error
	Release() error
}

// Config is what a Hub needs. All fields without a stated zero are needed.
type Config struct {
	// Open opens a cluster; conn is JSON of kube.Connection.
	Open func(conn json.RawMessage) (Cluster, error)
	// Redact makes of conn what the ledger keeps; see session.Config.
	Redact func(conn json.RawMessage, c Cluster, namespace string) (json.RawMessage, error)
	Dial   func(ctx context.Context, cfg link.Config) (*link.Link, error)
	// Begin writes a record to the ledger.
	Begin func(r ledger.Record) (Entry, error)
	// Undo is the record's step; Abandon has somebody else undo it, who does not give up.
	Undo    ledger.Step
	Abandon func(ctx context.Context, session string) error
	// NewID makes a session's id.
	NewID func() string
	// User and Host are written where the cluster's other users can see whose the agent is.
	User, Host string
	// AloneFor is how long an agent stays without its laptop; 0: as long as kube.Connector says.
	AloneFor time.Duration
	Now      func() time.Time
	Logger   *slog.Logger // nil discards
}

// Request says where to connect to.
type Request struct {
	Connection json.RawMessage // of kube.Connection
	Image      string          // the agent's
	PullPolicy string
}

// Notify takes lines for the user. Nil is allowed.
type Notify func(line string)

// ErrClosed says that the hub is closed.
var ErrClosed = errors.New("the daemon is ending; run the command again")

// Hub has the connections of a daemon. Its methods are safe for concurrent use.
type Hub struct {
	cfg  Config
	log  *slog.Logger
	life context.Context //nolint:containedctx // the connections' own, which outlive the calls that begin them
	kill context.CancelFunc

	mu      sync.Mutex
	closing bool
	conns   map[string]*connection
	running sync.WaitGroup
}

// NewHub makes a hub, whose connections live in ctx at most. Close ends it.
func NewHub(ctx context.Context, cfg Config) *Hub {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	life, kill := context.WithCancel(ctx)
	return &Hub{cfg: cfg, log: cfg.Logger, life: life, kill: kill, conns: map[string]*connection{}}
}

// Acquire joins the connection to a cluster's namespace, or stands it up. notify gets progress lines until it returns. The caller
// closes the Lease; the last one takes the agent away. Two requests are of one connection if API server and namespace are the same:
// the second one shares the credentials and the agent of the first.
func (h *Hub) Acquire(ctx context.Context, req Request, notify Notify) (*Lease, error) {
	cluster, err := h.cfg.Open(req.Connection)
	if err != nil {
		return nil, err
	}
	c, joined, err := h.join(req, cluster)
	if err != nil || joined {
		err = errors.Join(err, cluster.Close())
	}
	if err != nil {
		return nil, err
	}
	defer c.listen(notify)()
	select {
	case <-c.ready:
	case <-ctx.Done():
		h.leave(c)
		return nil, context.Cause(ctx)
	}
	if err := c.failure(); err != nil {
		h.leave(c)
		return nil, err
	}
	done, end := c.until()
	return &Lease{conn: c, done: done, close: sync.OnceFunc(func() {
		end()
		h.leave(c)
	})}, nil
}

// join counts one who uses a connection, which it begins where there is none.
func (h *Hub) join(req Request, cluster Cluster) (c *connection, joined bool, err error) {
	key := cluster.Server() + " " + cluster.Namespace()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return nil, false, ErrClosed
	}
	if c := h.conns[key]; c != nil {
		c.users++
		return c, true, nil
	}
	c = newConnection(h.life, h.cfg, h.log, key, req, cluster)
	c.users = 1
	h.conns[key] = c
	life, stop := context.WithCancel(h.life)
	c.stop = stop
	h.running.Go(func() { c.run(life, h.life) })
	return c, false, nil
}

// leave uncounts one. The last one ends the connection, which nobody joins from then on.
func (h *Hub) leave(c *connection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.users--
	if c.users > 0 {
		return
	}
	if h.conns[c.key] == c {
		delete(h.conns, c.key)
	}
	c.stop()
}

// Count is how many connections there are.
func (h *Hub) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// Close ends all connections, and waits until their agents are taken away, or given to who undoes it later. No Lease may be acquired
// from then on.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closing = true
	for _, c := range h.conns {
		c.stop()
	}
	h.mu.Unlock()
	h.running.Wait()
	h.kill()
	return nil
}

// errClosed is the error of what is asked of a connection that has ended.
var errClosed = fmt.Errorf("the connection is closed: %w", net.ErrClosed)
