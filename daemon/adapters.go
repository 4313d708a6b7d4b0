package daemon

import (
	"encoding/json"
	"fmt"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/session"
)

// connector opens clusters for sessions.
func connector(cfg Config) func(json.RawMessage) (session.Cluster, error) {
	return func(data json.RawMessage) (session.Cluster, error) {
		conn, err := decodeConnection(data)
		if err != nil {
			return nil, err
		}
		c, err := kube.Connect(conn, kube.Config{Version: cfg.Version, Logger: cfg.Logger})
		if err != nil {
			return nil, err // a nil *kube.Cluster would be no nil session.Cluster
		}
		return c, nil
	}
}

// redact is session.Config.Redact.
func redact(data json.RawMessage, c session.Cluster, namespace string) (json.RawMessage, error) {
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
