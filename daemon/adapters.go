package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/daemon/session"
)

// connector opens clusters for sessions.
func connector(cfg Config) func(json.RawMessage) (session.Cluster, error) {
	return func(data json.RawMessage) (session.Cluster, error) {
		c, err := openCluster(cfg, data)
		if err != nil {
			return nil, err // a nil *kube.Cluster would be no nil session.Cluster
		}
		return c, nil
	}
}

func openCluster(cfg Config, data json.RawMessage) (*kube.Cluster, error) {
	conn, err := decodeConnection(data)
	if err != nil {
		return nil, err
	}
	return kube.Connect(conn, kube.Config{Version: cfg.Version, Logger: cfg.Logger})
}

// newHub makes the connections that stand in nobody's place. What the hub does not take away itself, sessions does.
func newHub(ctx context.Context, cfg Config, links *link.Dialer, book *ledger.Ledger, abandon func(context.Context, string) error) *connect.Hub {
	return connect.NewHub(ctx, connect.Config{
		Open: func(data json.RawMessage) (connect.Cluster, error) {
			c, err := openCluster(cfg, data)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Redact: func(data json.RawMessage, c connect.Cluster, namespace string) (json.RawMessage, error) {
			return redact(data, c, namespace)
		},
		Dial: links.Dial,
		Begin: func(r ledger.Record) (connect.Entry, error) {
			e, err := book.Begin(r)
			if err != nil {
				return nil, err
			}
			return e, nil
		},
		Undo: session.ConnectUndo(), Abandon: abandon, NewID: session.NewID,
		User: cfg.User, Host: cfg.Host, AloneFor: cfg.AloneFor, Now: time.Now, Logger: cfg.Logger,
	})
}

// named is a cluster of which the kubeconfig's name matters.
type named interface{ Context() string }

// redact is session.Config.Redact.
func redact(data json.RawMessage, c named, namespace string) (json.RawMessage, error) {
	conn, err := decodeConnection(data)
	if err != nil {
		return nil, err
	}
	conn = conn.Redacted()
	conn.Namespace = namespace
	if conn.Context == "" {
		conn.Context = c.Context()
	}
	return json.Marshal(conn)
}

func decodeConnection(data json.RawMessage) (kube.Connection, error) {
	var conn kube.Connection
	if err := json.Unmarshal(data, &conn); err != nil {
		// The text may quote the data: it stays out of the message.
		return conn, fmt.Errorf("read the connection to the cluster: it is no JSON of this version (%T)", err)
	}
	return conn, nil
}

// sessionLedger is *ledger.Ledger as sessions want it.
type sessionLedger struct{ book *ledger.Ledger }

func (l sessionLedger) Begin(r ledger.Record) (session.Entry, error) {
	return entryOf(l.book.Begin(r))
}

func (l sessionLedger) Take(id string) (session.Entry, error) {
	return entryOf(l.book.Take(id))
}

func (l sessionLedger) Records() ([]ledger.Record, error) { return l.book.Records() }

// entryOf keeps a nil *ledger.Entry from becoming an entry.
func entryOf(e *ledger.Entry, err error) (session.Entry, error) {
	if err != nil {
		return nil, err
	}
	return e, nil
}
