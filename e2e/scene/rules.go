package scene

import (
	"context"
	"fmt"
	"strings"
	"sync"
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

// CutOff keeps everything that the world's user sends from leaving the laptop, until the returned func is called or the test
// ends. Only in the embedded cluster.
func (w *World) CutOff() (mend func()) {
	w.T.Helper()
	table := fmt.Sprintf("cut%d", w.User.UID)
	nft := func(text string) error {
		cmd := w.Lab.Laptop.command(root, "/", nil, "/usr/sbin/nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		return runQuietly(cmd)
	}
	w.must(nft(fmt.Sprintf("table inet %s {\n chain out { type filter hook output priority 0; meta skuid %d oifname != \"lo\" drop; }\n}\n", table, w.User.UID)), "cut the laptop off")
	mend = sync.OnceFunc(func() {
		w.T.Helper()
		w.must(nft("delete table inet "+table+"\n"), "mend the laptop's network")
	})
	w.T.Cleanup(mend)
	return mend
}
