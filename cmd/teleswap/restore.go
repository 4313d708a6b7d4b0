package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

func (a *app) restoreCommand() *cobra.Command {
	req := &api.RestoreRequest{}
	cmd := &cobra.Command{
		Use:   "restore [TARGET|SESSION]",
		Short: "Give back what a session that died has left in the cluster",
		Long: `Restores targets whose session has nobody left to end it: those in this machine's
ledger, and those in the cluster that bear the mark of a session which does not live
here. Without a name it restores all that you left from this machine; other people's
targets must be named, or asked for by --all.`,
		Args:              oneArgument,
		ValidArgsFunction: a.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := a.kube.connection()
			if err != nil {
				return err
			}
			req.Connection, req.Selector = conn, strings.Join(args, "")
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer closeQuietly(c)
			stream, err := c.Restore(cmd.Context(), req)
			if err != nil {
				return callError(err)
			}
			n, err := a.watch(cmd.Context(), stream)
			if err == nil && n == 0 && !a.told {
				fmt.Fprintln(a.err, "nothing to restore")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&req.All, "all", false, "restore every swapped target of the namespace, other people's too")
	cmd.Flags().BoolVarP(&req.AllNamespaces, "all-namespaces", "A", false, "look in all namespaces")
	return cmd
}
