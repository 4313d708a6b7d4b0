package kube

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// callTimeout bounds one call to the API server where --request-timeout says nothing.
const callTimeout = 15 * time.Second

// Config is what Connect needs beside the connection.
type Config struct {
	Version string       // of Teleswap, for the user agent; empty means "dev"
	Logger  *slog.Logger // nil discards
}

// Cluster is a connection to one API server, acting in one namespace. It is safe for
// concurrent use. Close it when it is no longer used.
type Cluster struct {
	client    kubernetes.Interface
	config    *rest.Config // nil in tests with a fake client
	http      *http.Client // nil likewise
	upgrades  *upgrader    // nil likewise
	namespace string
	server    string
	context   string
	user      string        // of the kubeconfig
	timeout   time.Duration // of one call
	log       *slog.Logger
}

// Connect loads the configuration. It does not ask the API server yet. Errors:
// *NoClusterError, *NotFoundError (of a context, cluster or user).
func Connect(conn Connection, cfg Config) (*Cluster, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	l, err := conn.load()
	if err != nil {
		return nil, err
	}
	timeout := l.config.Timeout
	if timeout <= 0 {
		timeout = callTimeout
	}
	conn.settle(l.config, cfg)
	c := &Cluster{
		config:    l.config,
		namespace: l.namespace,
		server:    l.config.Host,
		context:   l.context,
		user:      l.user,
		timeout:   timeout,
		log:       cfg.Logger,
	}
	unusable := func(err error) error {
		return &NoClusterError{
			Server: c.server, Reason: "the connection cannot be set up: " + err.Error(),
			Hint: "check the files and options that the kubeconfig names", Err: err,
		}
	}
	gated := rest.CopyConfig(l.config)
	gated.Wrap(firstConnection)
	if c.http, err = rest.HTTPClientFor(gated); err != nil {
		return nil, unusable(err)
	}
	if c.client, err = kubernetes.NewForConfigAndClient(l.config, c.http); err != nil {
		return nil, unusable(err)
	}
	if c.upgrades, err = newUpgrader(l.config); err != nil {
		return nil, unusable(err)
	}
	return c, nil
}

// In is the same cluster acting in another namespace. Empty means the same one. Only
// the original is to be closed.
func (c *Cluster) In(namespace string) *Cluster {
	other := *c
	if namespace != "" {
		other.namespace = namespace
	}
	return &other
}

// Namespace is the namespace in which methods act.
func (c *Cluster) Namespace() string { return c.namespace }

// Server is the URL of the API server.
func (c *Cluster) Server() string { return c.server }

// Context is the name of the kubeconfig's context; empty if there is none.
func (c *Cluster) Context() string { return c.context }

// Close closes the connections to the API server that are idle.
func (c *Cluster) Close() error {
	if c.http != nil {
		// http.Client's own method does not see through client-go's wrappers.
		utilnet.CloseIdleConnectionsFor(c.http.Transport)
	}
	return nil
}

// String names the cluster in logs.
func (c *Cluster) String() string { return fmt.Sprintf("%s (namespace %s)", c.server, c.namespace) }

// warnings puts the API server's warnings into the log: client-go would print them.
type warnings struct{ log *slog.Logger }

// HandleWarningHeader implements rest.WarningHandler.
func (w warnings) HandleWarningHeader(code int, _, text string) {
	if code == 299 && text != "" {
		w.log.Warn("the API server warns", "text", text)
	}
}

// drain reads a body, of no more than is fit for a message, and closes it.
func drain(body io.ReadCloser) []byte {
	text, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil
	}
	return text
}
