package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

type listOutput struct {
	Namespace string         `json:"namespace"`
	Targets   []targetOutput `json:"targets"`
}

type targetOutput struct {
	Kind       string      `json:"kind"`
	Name       string      `json:"name"`
	Replicas   int32       `json:"replicas"`
	Ready      int32       `json:"ready"`
	Containers []string    `json:"containers"`
	Swapped    *markOutput `json:"swapped,omitempty"`
}

type markOutput struct {
	Session string    `json:"session"`
	User    string    `json:"user"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
}

func (a *app) listCommand() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List what can be swapped in the namespace",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := a.kube.connection()
			if err != nil {
				return err
			}
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer closeQuietly(c)
			reply, err := c.Targets(cmd.Context(), &api.TargetsRequest{Connection: conn})
			if err != nil {
				return callError(err)
			}
			out := listOf(reply)
			return output.write(a.out, out, func() error { return a.printList(out) })
		},
	}
	output.add(cmd)
	return cmd
}

func listOf(reply *api.TargetsReply) listOutput {
	out := listOutput{Namespace: reply.GetNamespace(), Targets: []targetOutput{}}
	for _, t := range reply.GetTargets() {
		to := targetOutput{Kind: t.GetKind(), Name: t.GetName(), Replicas: t.GetReplicas(), Ready: t.GetReady(), Containers: t.GetContainers()}
		if m := t.GetMark(); m != nil {
			to.Swapped = &markOutput{Session: m.GetSession(), User: m.GetUser(), Host: m.GetHost(), Since: m.GetSince().AsTime()}
		}
		out.Targets = append(out.Targets, to)
	}
	return out
}

func (a *app) printList(out listOutput) error {
	if len(out.Targets) == 0 {
		return errors.New("nothing can be swapped in namespace " + out.Namespace + "; name another one with --namespace")
	}
	table := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TARGET\tREADY\tCONTAINERS\tSWAPPED BY")
	for _, t := range out.Targets {
		by := "-"
		if m := t.Swapped; m != nil {
			by = fmt.Sprintf("%s@%s since %s (%s)", m.User, m.Host, m.Since.Local().Format("2006-01-02 15:04"), m.Session)
		}
		fmt.Fprintf(table, "%s/%s\t%d/%d\t%s\t%s\n", t.Kind, t.Name, t.Ready, t.Replicas, strings.Join(t.Containers, ","), by)
	}
	return table.Flush()
}
