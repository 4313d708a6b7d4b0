package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

// exposeOptions are the flags of expose.
type exposeOptions struct {
	as, serviceAccount string
	agent              agentFlags
	detach             bool
}

func (a *app) exposeCommand() *cobra.Command {
	var o exposeOptions
	cmd := &cobra.Command{
		Use:   "expose LOCAL[:PORT][/udp]… --as NAME",
		Short: "Make a Service in the cluster that is a port of this machine",
		Long: `Makes a Service NAME in the namespace that leads to this machine: who calls its PORT in the cluster reaches what listens on
LOCAL at this machine's 127.0.0.1 (or [::1]). PORT is LOCAL if left away. The server may be started before or after, and again
at any time. At the end (Ctrl-C, or teleswap leave), and however this machine goes, the Service goes, too.

It is what teleswap swap --new NAME --expose LOCAL:PORT --hold makes, without a sandbox: the server keeps this machine's
network and environment, and sees 127.0.0.1 as its client.`,
		Example: "  teleswap expose 8080:80 --as hello          # the cluster calls http://hello\n" +
			"  teleswap expose 5432 --as db -d             # in the background\n" +
			"  teleswap expose 8080:80 5353:53/udp --as hello --namespace shop",
		Args:              wantPorts,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			req, err := a.exposeRequest(o, args)
			if err != nil {
				return err
			}
			return a.swapHereOrBehind(cmd.Context(), o.detach, req, wishes{hold: true, exposes: req.GetName()})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.as, "as", "", "`NAME` of the Service")
	f.StringVar(&o.serviceAccount, "serviceaccount", "", "the ServiceAccount of the agent's pod; the namespace's default if left away")
	f.BoolVarP(&o.detach, "detach", "d", false, "give the terminal back once the Service stands, and print the session's id; teleswap leave ends it")
	o.agent.add(cmd)
	completeNothing(cmd, "as", "serviceaccount")
	return cmd
}

// wantPorts answers a line without a port.
func wantPorts(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage("%s needs a port of this machine: %s", cmd.CommandPath(), exposeForm)
	}
	return nil
}

// exposeRequest is the swap that an expose is.
func (a *app) exposeRequest(o exposeOptions, ports []string) (*api.SwapRequest, error) {
	if o.as == "" {
		return nil, usage("expose needs a name for the Service: --as NAME")
	}
	if strings.ContainsAny(o.as, "/:") {
		return nil, usage("--as %s: it is the name of a Service, without a kind and without a port; a port is written LOCAL:PORT", o.as)
	}
	for _, text := range ports {
		if _, err := parseExpose(text); err != nil {
			return nil, usage("expose %s: %v", orQuotes(text), err)
		}
	}
	so := swapOptions{
		agent: o.agent, hold: holdFlags{hold: true}, ports: portFlags{expose: ports},
		fresh: newFlags{name: o.as, serviceAccount: o.serviceAccount}, plain: plainFlags{noSandbox: true},
	}
	req, err := a.swapRequest(&so, nil, -1, nil)
	if err != nil {
		return nil, err
	}
	if err := so.ports.put(req); err != nil {
		return nil, err
	}
	req.New, req.ServiceAccount, req.NoVolumes = true, o.serviceAccount, true
	return req, nil
}

// exposedLine says which ports of the Service lead where.
func (s *swapping) exposedLine(end string) {
	var all []string
	for _, p := range s.req.GetExpose() {
		all = append(all, fmt.Sprintf("%s:%d%s is this machine's %s", s.wishes.exposes, p.GetRemote(), udpSuffix(p.GetUdp()),
			net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.GetLocal())))))
	}
	s.ui.line("exposed: in the cluster %s; %s ends it", strings.Join(all, ", "), end)
}
