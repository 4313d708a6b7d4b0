package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/docker"
)

// swapOptions are the flags of swap.
type swapOptions struct {
	target    targetFlags
	agent     agentFlags
	env       envFlags
	ports     portFlags
	fresh     newFlags
	also      alsoFlags
	mount     mountFlags
	hold      holdFlags
	noPodLogs bool
	hooks     bool
	plain     plainFlags
	watch     watchFlags
	debug     debugFlag
	overseer  string
}

// The help of swap.
const (
	swapLong = `Runs a command in the place of a workload's pods: once it listens, the cluster's
traffic goes to it, and what it asks of the cluster comes from the pod. Its environment
is the pod's, laid over yours. When it ends, or you do, the cluster is as it was.

KIND is deployment, statefulset (sts), daemonset (ds), replicaset (rs), cronjob (cj), job
or pod (po). A NAME alone is looked for among all of them. Of a DaemonSet the pod on one
node is swapped; a CronJob or Job is suspended, and the command runs as the Job's pod.
Where there is nothing to swap yet, --new makes a Deployment and takes it away again.

--run takes the rest of the line, flags and all; so does --. --docker-run takes it as docker run
does: the container stands in the pod's place, with its network, variables and volumes.
Without a command --expose PORT, or --hold, holds the swap for a process that you start
yourself: what listens on that port on this machine, or in teleswap shell, is in the pod's place.
The exit status is the command's; 128+N if signal N ended it; 2 for wrong usage.`
	swapExample = `  teleswap swap --deployment service-a --run go run .
  teleswap swap service-a -- python3 -m http.server 8080
  teleswap swap service-a --docker-run --rm -it -v $PWD:/src service-a:dev
  teleswap swap -n shop --deployment web:nginx --run ./server --port 8080
  teleswap swap service-a --expose 3000:8080 --publish 9229 --run node --inspect server.js
  teleswap swap service-a --watch --run go run .
  teleswap swap service-a --watch='*.py' --watch=templates --run python3 app.py
  teleswap swap service-a --debug --run go run ./cmd/server
  teleswap swap --new hello --expose 8080 --run ./server
  teleswap swap service-a --expose 8080 --env-json service-a.json`
)

func (a *app) swapCommand(command []string) *cobra.Command {
	var o swapOptions
	var run string
	cmd := &cobra.Command{
		Use:               "swap {--deployment NAME[:CONTAINER] | [KIND/]NAME[:CONTAINER] | --new NAME} {--run COMMAND… | --docker-run [FLAGS] IMAGE… | -- COMMAND…}",
		Short:             "Run a local process in the place of a workload",
		Long:              swapLong,
		Example:           swapExample,
		ValidArgsFunction: a.completeSwap,
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			req, err := a.swapRequest(&o, args, cmd.ArgsLenAtDash(), command)
			if err != nil {
				return err
			}
			attach, err := o.planDev(req, a.inContainer)
			if err != nil {
				return err
			}
			if err := o.put(cmd.Flags(), req); err != nil {
				return err
			}
			root, err := o.mount.put(req, a.inContainer)
			defer o.mount.end()
			if err != nil {
				return err
			}
			w, err := o.wishes(root)
			if err != nil {
				return err
			}
			w.env.old = a.oldEnv
			w.podLogs, w.attach, w.hold = w.podLogs && !req.GetHold(), attach, req.GetHold()
			if err := a.checkContainer(cmd.Context(), req, &w); err != nil {
				return err
			}
			return a.swapHereOrBehind(cmd.Context(), o.hold.detach, req, w)
		},
	}
	f := cmd.Flags()
	o.target.add(f)
	f.StringVar(&run, "run", "", "the command to run; takes the rest of the line, flags and all")
	addDockerFlag(f)
	o.env.add(f)
	addOverseer(f, &o.overseer)
	o.ports.add(f)
	o.ports.complete(cmd)
	o.fresh.add(f)
	o.fresh.complete(cmd)
	o.also.add(f)
	o.also.complete(cmd)
	o.mount.add(f)
	o.plain.add(f)
	o.watch.add(f)
	o.debug.add(f)
	o.hold.add(f)
	f.BoolVar(&o.hooks, "lifecycle-hooks", false, "run the container's postStart and preStop hooks in the command's sandbox")
	f.BoolVar(&o.noPodLogs, "no-pod-logs", false, "keep the command's output out of the log of the agent's pod")
	o.agent.add(cmd)
	a.completeTargetFlags(cmd)
	return cmd
}

// wishes are what the daemon need not know; those of the `teleswap up` that the swap belongs to are among them.
func (o *swapOptions) wishes(root string) (wishes, error) {
	if o.overseer != "" && o.hold.detach {
		return wishes{}, usage("-d: `teleswap up` keeps its sessions to itself; leave the flag out of the file, and start `up` in the background instead")
	}
	up, more, err := meet(o.overseer)
	if err != nil {
		return wishes{}, err
	}
	o.env.set = append(o.env.set, more...)
	env, err := o.env.check(os.LookupEnv)
	return wishes{env: env, root: root, podLogs: !o.noPodLogs, hooks: o.hooks, watch: o.watch, up: up}, err
}

// put checks the flags that go into the request as they are.
func (o *swapOptions) put(f *pflag.FlagSet, req *api.SwapRequest) error {
	for flag, file := range map[string]string{"env-json": o.env.json, "env-write": o.env.write} {
		if f.Changed(flag) && file == "" {
			return usage("--%s: it names no file", flag)
		}
	}
	if err := o.ports.put(req); err != nil {
		return err
	}
	if err := o.fresh.put(f, req); err != nil {
		return err
	}
	return o.also.put(req)
}

// swapRequest checks what can be checked without the cluster. dash is how many
// arguments came before a --, -1 without one; command is what --run took.
func (a *app) swapRequest(o *swapOptions, args []string, dash int, command []string) (*api.SwapRequest, error) {
	if a.inContainer && o.fresh.name == "" && len(o.target.named) == 0 && len(args) == 0 {
		if err := o.fresh.byImage(command); err != nil {
			return nil, err
		}
	}
	holds, err := o.holds(dash, command)
	if err != nil {
		return nil, err
	}
	if holds {
		command = []string{inPlace}
	}
	target, command, err := splitSwap(o.target, o.fresh.name, args, dash, command)
	if err != nil {
		return nil, err
	}
	if holds {
		command = nil
	} else if err := a.checkCommand(command); err != nil {
		return nil, err
	}
	if err := o.agent.check(); err != nil {
		return nil, err
	}
	if o.target.order != "" && o.target.order != scaleFirst {
		return nil, usage("--order is %s, or left away, not %q", scaleFirst, o.target.order)
	}
	noSandbox, err := o.plain.check(&o.ports)
	if err != nil {
		return nil, err
	}
	conn, err := a.kube.connection()
	if err != nil {
		return nil, err
	}
	return &api.SwapRequest{
		NoSandbox:  noSandbox,
		Connection: conn, Kind: target.kind, Name: target.name, Container: target.container,
		AgentImage: o.agent.image, AgentPullPolicy: o.agent.pullPolicy, Pid: int64(os.Getpid()), Command: command,
		Hold: holds, Node: o.target.node, SkipInit: o.target.skipInit, ScaleFirst: o.target.order == scaleFirst,
	}, nil
}

// checkCommand finds the command before anything is changed.
func (a *app) checkCommand(command []string) error {
	if a.inContainer {
		_, err := docker.Parse(command)
		return dockerError(err)
	}
	_, err := exec.LookPath(command[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		return nil
	}
	hint := "check its spelling and your PATH"
	if strings.ContainsAny(command[0], " \t") {
		hint = "if this is a command with its arguments, write it without the quotes"
	}
	return usage("the command cannot be run: %v\n%s", err, hint)
}

func (a *app) targets(ctx context.Context) ([]*api.Target, error) {
	var targets []*api.Target
	err := a.askQuietly(ctx, func(c *api.Client, conn []byte) error {
		reply, err := c.Targets(ctx, &api.TargetsRequest{Connection: conn})
		targets = reply.GetTargets()
		return err
	})
	return targets, err
}

// namespaces are those of the cluster, for a shell; none where the user may not list them.
func (a *app) namespaces(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, completionPatience)
	defer cancel()
	var names []string
	// A shell is no place for errors.
	_ = a.askQuietly(ctx, func(c *api.Client, conn []byte) error {
		reply, err := c.Namespaces(ctx, &api.NamespacesRequest{Connection: conn})
		names = reply.GetNames()
		return err
	})
	return names
}

// askQuietly asks the daemon of the cluster, and prints nothing.
func (a *app) askQuietly(ctx context.Context, ask func(c *api.Client, conn []byte) error) error {
	conn, err := a.kube.connection()
	if err != nil {
		return err
	}
	silent := *a
	if silent.err, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return err
	}
	defer closeQuietly(silent.err)
	c, err := silent.dial(ctx)
	if err != nil {
		return err
	}
	defer closeQuietly(c)
	return ask(c, conn)
}

// The child's ladder of signals: how long each rung has before the next.
const (
	termAfter = 10 * time.Second
	killAfter = 5 * time.Second
	// killAfterTerm is the last rung's patience where SIGTERM was the first.
	killAfterTerm = 10 * time.Second
)
