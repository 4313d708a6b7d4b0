package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

func (a *app) leaveCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "leave [TARGET|SESSION]",
		Short: "End a session: restore the cluster, then end the local process",
		Long: `Ends a session of this machine as its own Ctrl-C would, but gentler: the cluster is
restored while the local process still serves, and only then the process is ended.
Without a name it ends the only session there is; -n tells targets of one name apart.`,
		Args:              oneArgument,
		ValidArgsFunction: a.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usage("name a session or say --all, not both")
			}
			c, err := a.dialSessions(cmd.Context())
			if errors.Is(err, errNoDaemon) && len(args) > 0 {
				return fmt.Errorf("there is no session %q; see `teleswap status`", args[0])
			}
			if errors.Is(err, errNoDaemon) {
				return errors.New("there is no session to leave; see `teleswap status`")
			}
			if err != nil {
				return err
			}
			defer closeQuietly(c)
			selector := strings.Join(args, "")
			if a.kube.saidNamespace() != "" && !all {
				s, err := a.findSession(cmd.Context(), selector)
				if err != nil {
					return err
				}
				selector = s.GetId()
			}
			stream, err := c.Leave(cmd.Context(), &api.LeaveRequest{Selector: selector, All: all})
			if err != nil {
				return callError(err)
			}
			_, err = a.watch(cmd.Context(), stream)
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "end every session of this machine")
	return cmd
}

// completionPatience bounds what a shell waits for the cluster.
const completionPatience = 2 * time.Second

// completeSessions offers sessions by id, with their targets.
func (a *app) completeSessions(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	c, err := a.dialRunning(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeQuietly(c)
	reply, err := c.Status(ctx, &api.StatusRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range reply.GetSessions() {
		names = append(names, s.GetId()+"\t"+s.GetTarget())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
