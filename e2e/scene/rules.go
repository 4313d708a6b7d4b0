package scene

import (
	"context"
	"strings"
)

// Embedded reports whether the cluster is the repository's own, on whose node a test may have a hand.
func (l *Lab) Embedded() bool { return l.laptopNet != "" }

// NodeRules adds a table to the packet filter of the embedded cluster's node, until the test's
// end: what the node sends itself, as the API server does, can so be kept from arriving.
func (w *World) NodeRules(table, rules string) {
	w.T.Helper()
	add := w.Lab.cluster(w.T.Context(), "exec", "--net", "node", "--", "nft", "-f", "-")
	add.Stdin = strings.NewReader("table inet " + table + " {\n" + rules + "}\n")
	w.must(runQuietly(add), "nft on the node")
	w.T.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.T.Context()), patience)
		defer cancel()
		if err := runQuietly(w.Lab.cluster(ctx, "exec", "--net", "node", "--", "nft", "delete", "table", "inet", table)); err != nil {
			w.T.Errorf("remove the node's rules: %v", err)
		}
	})
}
