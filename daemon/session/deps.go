package session

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/restart"
	"github.com/teleswap/teleswap/daemon/volumes"
	"github.com/teleswap/teleswap/proxy/procnet"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// Cluster is what a session asks of a Kubernetes cluster; *kube.Cluster is one.
type Cluster interface {
	Finder
	Changer
	Waiter
	Dialer
	Close() error
}

// Finder looks without changing anything.
type Finder interface {
	Namespace() string
	Context() string
	Server() string
	Resolve(ctx context.Context, ref kube.Ref) (*kube.Target, error)
	CheckAccess(ctx context.Context, kind string) error
	ServiceCIDRs(ctx context.Context) ([]netip.Prefix, error)
	Targets(ctx context.Context) ([]kube.TargetSummary, error)
	Namespaces(ctx context.Context) ([]string, error)
	ListMarked(ctx context.Context, allNamespaces bool) ([]kube.Marked, error)
}

// Changer has every effect of a swap on the cluster, and their undos, which may be
// repeated.
type Changer interface {
	Mark(ctx context.Context, t *kube.Target, m kube.Mark) (kube.Mark, error)
	Remark(ctx context.Context, t *kube.Target, m kube.Mark) (kube.Mark, error)
	Unmark(ctx context.Context, o kube.Object, id string) error
	CreateSecret(ctx context.Context, t *kube.Target, a kube.Agent) error
	CreateAgent(ctx context.Context, t *kube.Target, a kube.Agent) error
	DeleteAgent(ctx context.Context, name string, notify kube.Notify) error
	DeleteSecret(ctx context.Context, name string) error
	CreateNew(ctx context.Context, t *kube.Target, a kube.Agent, m kube.Mark) error
	DeleteNew(ctx context.Context, name, agent string, notify kube.Notify) error
	Shift(ctx context.Context, sh kube.Shift, agent string) error
	DeleteConnect(ctx context.Context, session string, notify kube.Notify) error
	Unshift(ctx context.Context, sh kube.Shift, agent string) (kube.Outcome, error)
}

// Waiter waits for what the cluster makes of a change.
type Waiter interface {
	WaitAgentRunning(ctx context.Context, name string, notify kube.Notify) (kube.AgentPod, error)
	WaitAgentReady(ctx context.Context, name string, notify kube.Notify) (kube.AgentPod, error)
	WaitEndpoints(ctx context.Context, services []string, pod kube.AgentPod) error
	WaitAvailable(ctx context.Context, o kube.Object, n int32, notify kube.Notify) ([]netip.Addr, error)
	WaitGone(ctx context.Context, o kube.Object, notify kube.Notify) error
	Serving(ctx context.Context, sh kube.Shift) (int32, error)
}

// Dialer opens raw connections to a port of a pod through the API server.
type Dialer interface {
	DialPodProxy(ctx context.Context, namespace, pod string, port int32) (net.Conn, error)
	DialPortForward(ctx context.Context, namespace, pod string, port int32, kind string) (net.Conn, error)
}

// Link is the way to the session's agent.
type Link interface {
	Agent
	Files
	// Attach joins the sandbox to the pod: from then on connections go both ways.
	Attach(ctx context.Context, box Box, view *tunnel.PodView) error
	// AttachLaptop joins the laptop itself to the pod: what arrives goes to at, and the proxy takes what a process sends: it is
	// USER:PASSWORD@ADDRESS:PORT, as in a URL, for the process alone. One of the two is called, once.
	AttachLaptop(at served, view *tunnel.PodView) (proxy string, err error)
	// Logs writes output of the process to the agent's own, from where it comes into the pod's log. It waits while the
	// way is full or broken. One goroutine at a time may call it.
	Logs(ctx context.Context, stderr bool, p []byte) error
	// EndLogs returns when the agent has written all of it.
	EndLogs() error
	// Transport is the name of the way that was taken.
	Transport() string
	// Gone is closed when the agent is lost for good; Err then says why.
	Gone() <-chan struct{}
	Err() error
	// Quiet is closed when the agent, told to end, gets no new connections any more.
	Quiet() <-chan struct{}
	// Close ends all connections and waits for all goroutines.
	Close() error
}

// Agent is what an agent is told and asked.
type Agent interface {
	// View is what the agent reports of its pod.
	View(ctx context.Context) (*tunnel.PodView, error)
	// SetReady lets the agent's pod become Ready.
	SetReady(ctx context.Context) error
	// Hold tells the agent that nobody serves at this end any more.
	Hold(ctx context.Context) error
	// Retire tells the agent that the process has ended, and that nobody comes after it.
	Retire(ctx context.Context) error
	// HandOver tells the agent which pods serve in its place.
	HandOver(ctx context.Context, pods []netip.Addr) error
}

// Files are the pod's files; see package volumes.
type Files interface {
	// DialFiles opens a stream on which the agent serves SFTP.
	DialFiles(ctx context.Context) (net.Conn, error)
	// WatchTrees follows files that change as a whole, until the tunnel breaks.
	WatchTrees(ctx context.Context, roots []string, got func(*tunnel.Tree)) error
}

// LinkConfig is what a Link needs.
type LinkConfig struct {
	Cluster  Cluster
	Session  string
	Agent    string // name of its Deployment or Pod
	Image    string // the agent's, for messages
	Pod      kube.AgentPod
	Port     int32 // the agent's own
	Keys     *tunnel.Keys
	Services []netip.Prefix // the cluster's Service ranges
	Also     *Also          // what goes through the pod, whatever the rule says
	Maps     []kube.PortMap // ports that lead to another port of the process
	ToPod    []kube.Port    // of the pod's loopback address, to be reached whatever listens there
	Gate     *restart.Gate  // of a process that may be restarted; nil: it never is
	Hold     bool           // what arrives goes to the laptop where nothing listens for it in the sandbox
	Warn     func(format string, args ...any)
	Logger   *slog.Logger
}

// Box is a sandbox that was handed over by the command.
type Box interface {
	// TakeTUN gives the device's file away; the taker closes it.
	TakeTUN() *os.File
	// TakeMounts gives the volumes' files away, which the taker closes.
	TakeMounts() BoxMounts
	// Listening are the sockets that listen in the sandbox, but for those of Listen.
	Listening() ([]procnet.Socket, error)
	// Listen makes a socket in the sandbox that listens, or for UDP is bound; Dial one that is connected. See
	// sandbox.Handoff. The caller closes the file.
	Listen(network string, addr netip.AddrPort) (*os.File, error)
	Dial(network string, addr netip.AddrPort) (*os.File, error)
	// Ack lets the sandbox start its process, or tells it why not.
	Ack(err error) error
	// Kill ends every process that is still in the sandbox.
	Kill() error
	// Close lets go of the sandbox.
	Close() error
}

// KeyStore keeps the keys of living sessions. They are worth something while their
// agent stands, so they are kept where the machine keeps what ends with it.
type KeyStore interface {
	Save(session string, keys *tunnel.Keys) error
	Load(session string) (*tunnel.Keys, error)
	Forget(session string) error
}

// BoxMounts are the volumes of a Box.
type BoxMounts struct {
	Files    []*os.File // nil where Problems says why there is none
	Problems []string
	// Owner is as whom the process runs.
	Owner volumes.Owner
}

// Boxes hands out the sandboxes that arrive at the daemon.
type Boxes interface {
	// Expect returns where the sandbox of a session will arrive; the func ends the
	// waiting. A sandbox with another token is refused, and so is a container's where none is expected.
	Expect(session, token string, container bool) (<-chan Box, func())
}

// Ledger keeps undo records; see package ledger.
type Ledger interface {
	Begin(r ledger.Record) (Entry, error)
	Take(session string) (Entry, error)
	Records() ([]ledger.Record, error)
}

// Entry is a record held by a session; *ledger.Entry is one.
type Entry interface {
	Record() ledger.Record
	Append(step ledger.Step) error
	Forget() error
	Release() error
}

// Config is what all sessions of a daemon share. All fields but Logger are needed.
type Config struct {
	// Connect opens a cluster; conn is JSON of kube.Connection.
	Connect func(conn json.RawMessage) (Cluster, error)
	// Redact makes of conn what the ledger keeps: without secrets, and naming the
	// cluster that it led to, whatever becomes of the user's current context.
	Redact func(conn json.RawMessage, c Cluster, namespace string) (json.RawMessage, error)
	Dial   func(ctx context.Context, cfg LinkConfig) (Link, error)
	// Acquire joins the connection to a namespace that stands in nobody's place; see connect.Hub.
	Acquire func(ctx context.Context, req connect.Request, notify connect.Notify) (*connect.Lease, error)
	// Check says what keeps this machine from making sandboxes; nil: nothing does.
	Check func() error
	// FilesDir is where the files of processes without a sandbox are put, a directory each: in memory where the system has
	// such a place, and closed to others.
	FilesDir string
	// Keys keeps what a next daemon needs to speak to the agents of this one.
	Keys   KeyStore
	Ledger Ledger
	Boxes  Boxes
	// User and Host are written into the mark.
	User, Host string
	// UID is whom the local processes run as.
	UID int
	// Now is the clock of marks and records.
	Now func() time.Time
	// Logger: nil discards.
	Logger *slog.Logger
}
