package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

func (a *app) disconnectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "disconnect",
		Short: "End the connections of this machine",
		Long: `Ends every session of this machine that only connects it to a cluster (teleswap connect), whichever way; swaps go on.
What a connection has changed on this machine is put back, also where its processes were killed.`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dialSessions(cmd.Context())
			if errors.Is(err, errNoDaemon) {
				fmt.Fprintln(a.err, "there is no connection")
				return nil
			}
			if err != nil {
				return err
			}
			defer closeQuietly(c)
			reply, err := c.Status(cmd.Context(), &api.StatusRequest{})
			if err != nil {
				return callError(err)
			}
			found := false
			for _, s := range reply.GetSessions() {
				if !s.GetConnects() {
					continue
				}
				found = true
				stream, err := c.Leave(cmd.Context(), &api.LeaveRequest{Selector: s.GetId()})
				if err != nil {
					return callError(err)
				}
				if _, err := a.watch(cmd.Context(), stream); err != nil {
					return err
				}
			}
			if !found {
				fmt.Fprintln(a.err, "there is no connection")
			}
			return nil
		},
	}
}
