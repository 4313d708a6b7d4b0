package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

// agentFlags say which agent there is to be.
type agentFlags struct{ image, pullPolicy string }

func (g *agentFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.image, "agent-image", defaultImage(os.Getenv), "image of the agent (also TELESWAP_AGENT_IMAGE)")
	f.StringVar(&g.pullPolicy, "agent-pull-policy", "", "Always, IfNotPresent or Never; empty leaves it to Kubernetes")
	policies := cobra.FixedCompletions([]string{"Always", "IfNotPresent", "Never"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("agent-pull-policy", policies); err != nil {
		cobra.CompErrorln(err.Error())
	}
	completeNothing(cmd, "agent-image")
}

func (g *agentFlags) check() error {
	switch g.pullPolicy {
	case "", "Always", "IfNotPresent", "Never":
		return nil
	}
	return usage("--agent-pull-policy is Always, IfNotPresent or Never, not %q", g.pullPolicy)
}

// request is a connection by such an agent.
func (g *agentFlags) request(a *app) (*api.ConnectRequest, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	conn, err := a.kube.connection()
	if err != nil {
		return nil, err
	}
	return &api.ConnectRequest{Connection: conn, AgentImage: g.image, AgentPullPolicy: g.pullPolicy, Pid: int64(os.Getpid())}, nil
}

func defaultImage(getenv func(string) string) string {
	if image := getenv("TELESWAP_AGENT_IMAGE"); image != "" {
		return image
	}
	return "docker.io/teleswap/agent:" + version
}
