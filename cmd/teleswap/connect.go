package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/podview"
)

// connectOptions are the flags of connect.
type connectOptions struct {
	agent     agentFlags
	also      alsoFlags
	shell     bool
	noSandbox bool
	whole     wholeFlags
	proxy     proxyFlags
}

// The help of connect.
const (
	connectLong = `Runs a command, and all that it starts, on the cluster's network: it reaches Services and
pods by their names and addresses, in the namespace of --namespace or the kubeconfig's. Nobody's
place is taken, nothing of this machine is changed, and no root is needed. The command's
environment, files and terminal are your own, and its exit status is passed on.

Without a command all programs of this machine are connected, until Ctrl-C or teleswap disconnect: a
network device leads to the cluster's addresses, and the resolver knows its names. That needs root
(sudo may ask for your password); however it ends, the machine's network is as before.

--proxy opens a proxy into the cluster instead: SOCKS 5 and HTTP on one port of this machine, for
browsers, database tools and whatever else takes one. It needs no root, and prints the line for a shell.

What it needs in the cluster is one small pod, which all your connections to a namespace share, and
which goes with the last one, or 5 minutes after this machine is gone.`
	connectExample = `  teleswap connect -- curl http://service-b:5100/
  teleswap connect -- psql -h postgres.data -U app
  teleswap connect -n shop -- bash
  teleswap connect --run-shell
  teleswap connect -d
  teleswap connect --proxy
  teleswap connect --proxy 127.0.0.1:8888 --proxy-auth ~/.proxy-auth -d
  teleswap connect --docker-run --rm -it postgres psql -h postgres.data -U app`
)

func (a *app) connectCommand(command []string) *cobra.Command {
	var o connectOptions
	var run string
	cmd := &cobra.Command{
		Use:               "connect [-- COMMAND… | --run COMMAND… | --run-shell | --docker-run [FLAGS] IMAGE… | --proxy [[ADDRESS:]PORT]]",
		Short:             "Connect this machine, or a command, to the cluster's network",
		Long:              connectLong,
		Example:           connectExample,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			proxied, err := o.proxy.on(cmd.Flags(), args, cmd.ArgsLenAtDash())
			if err != nil {
				return err
			}
			if proxied {
				return a.connectProxy(cmd, &o, command)
			}
			here := !o.shell && len(command) == 0 && len(args) == 0 && cmd.ArgsLenAtDash() < 0 && !a.inContainer
			if err := o.whole.check(cmd.Flags(), here); err != nil {
				return err
			}
			switch {
			case here && o.whole.userOnly:
				fmt.Fprintln(a.err, userOnlyLine)
				o.proxy.at = proxyDefault
				return a.connectProxy(cmd, &o, command)
			case here:
				return a.connectWhole(cmd.Context(), &o)
			}
			command, err := o.command(args, cmd.ArgsLenAtDash(), command, os.Getenv)
			if err != nil {
				return err
			}
			return a.connectHere(cmd.Context(), &o, command)
		},
	}
	f := cmd.Flags()
	f.StringVar(&run, "run", "", "the command to run; takes the rest of the line, flags and all")
	f.BoolVar(&o.shell, "run-shell", false, "run your $SHELL")
	addDockerFlag(f)
	f.BoolVar(&o.noSandbox, "no-sandbox", !hasSandbox, "run the command in this machine's own network: a proxy (HTTP_PROXY, ALL_PROXY) leads to the cluster; "+
		"on other systems than Linux always")
	o.also.add(f)
	o.whole.add(f)
	o.also.complete(cmd)
	o.proxy.add(f)
	o.agent.add(cmd)
	completeNothing(cmd, "proxy")
	return cmd
}

// command is what is to run. dash is how many arguments came before a --, -1 without one; taken is what --run took.
func (o *connectOptions) command(args []string, dash int, taken []string, getenv func(string) string) ([]string, error) {
	switch {
	case !hasSandbox && !o.noSandbox:
		return nil, usage("--no-sandbox=false: the sandbox is made of Linux namespaces, which this system does not have; leave the flag away")
	case dash > 0 || dash < 0 && len(args) > 0:
		return nil, usage("%q: write -- in front of the command, as in `teleswap connect -- %s`", args[0], args[0])
	case o.shell && (len(taken) > 0 || len(args) > 0):
		return nil, usage("--run-shell and a command: give one of them")
	case len(taken) > 0 && len(args) > 0:
		return nil, usage("--run and --: give one of them")
	case o.shell:
		if shell := getenv("SHELL"); shell != "" {
			return []string{shell}, nil
		}
		return []string{"/bin/sh"}, nil
	case len(taken) > 0:
		return taken, nil
	case len(args) == 0:
		return nil, usage("there is no command to run: `teleswap connect -- COMMAND`, or --run-shell for a shell\nsee `teleswap connect --help`")
	}
	return args, nil
}

// connectHere runs a command on the cluster's network.
func (a *app) connectHere(ctx context.Context, o *connectOptions, command []string) error {
	if err := a.checkCommand(command); err != nil {
		return err
	}
	// What is checked of a swap's command holds for this one.
	like := &api.SwapRequest{Command: command, NoSandbox: o.noSandbox}
	w := wishes{connect: true, env: environment{EnvOptions: podview.EnvOptions{One: longestVariable}}}
	if err := a.checkContainer(ctx, like, &w); err != nil {
		return err
	}
	if err := o.also.put(like); err != nil {
		return err
	}
	req, err := o.agent.request(a)
	if err != nil {
		return err
	}
	req.Command, req.AlsoProxy, req.Sandbox = like.GetCommand(), like.GetAlsoProxy(), true
	req.InContainer, req.ContainerName, req.NoSandbox = like.GetInContainer(), like.GetContainerName(), like.GetNoSandbox()
	return a.attend(ctx, like, w, func(ctx context.Context, c *api.Client) (sessionStream, error) {
		stream, err := c.Connect(ctx)
		if err != nil {
			return nil, err
		}
		return connectStream{stream}, stream.Send(&api.ConnectUp{Message: &api.ConnectUp_Request{Request: req}})
	})
}

// connectStream is a connect's stream as a swap's.
type connectStream struct {
	grpc.BidiStreamingClient[api.ConnectUp, api.Event]
}

// Send implements sessionStream.
func (s connectStream) Send(up *api.SwapUp) error {
	var out api.ConnectUp
	switch m := up.GetMessage().(type) {
	case *api.SwapUp_ChildStarted:
		out.Message = &api.ConnectUp_ChildStarted{ChildStarted: m.ChildStarted}
	case *api.SwapUp_ChildExited:
		out.Message = &api.ConnectUp_ChildExited{ChildExited: m.ChildExited}
	case *api.SwapUp_End:
		out.Message = &api.ConnectUp_End{End: m.End}
	default:
		return fmt.Errorf("a connect has no %T", m)
	}
	return s.BidiStreamingClient.Send(&out)
}

// connectedLine is all that a connect says when it works, where somebody sits at a terminal.
func (s *swapping) connectedLine() {
	s.ui.line("%s connected to %s", s.ui.paint(green, "✓"), s.ui.joined())
}
