package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

// swapOptions are the flags of swap.
type swapOptions struct {
	deployment string
	image      string
	pullPolicy string
	env        envFlags
}

func (a *app) swapCommand(command []string) *cobra.Command {
	var o swapOptions
	var run string
	cmd := &cobra.Command{
		Use:   "swap {--deployment NAME[:CONTAINER] | [deployment/]NAME[:CONTAINER]} {--run COMMAND… | -- COMMAND…}",
		Short: "Run a local process in the place of a Deployment",
		Long: `Runs a command in the place of a Deployment's pods: once it listens, the cluster's
traffic goes to it, and what it asks of the cluster comes from the pod. Its environment
is the pod's, laid over yours. When it ends, or you do, the cluster is as it was.

--run takes the rest of the line, flags and all; so does --.
The exit status is the command's; 128+N if signal N ended it; 2 for wrong usage.`,
		Example: `  teleswap swap --deployment service-a --run go run .
  teleswap swap service-a -- python3 -m http.server 8080
  teleswap swap -n shop --deployment web:nginx --run ./server --port 8080`,
		ValidArgsFunction: a.completeSwap,
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.swapRequest(o, args, cmd.ArgsLenAtDash(), command)
			if err != nil {
				return err
			}
			env, err := o.env.check(os.LookupEnv)
			if err != nil {
				return err
			}
			return a.swap(cmd.Context(), req, wishes{env: env})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.deployment, "deployment", "", "the Deployment to swap, NAME or NAME:CONTAINER")
	f.StringVar(&run, "run", "", "the command to run; takes the rest of the line, flags and all")
	f.StringVar(&o.image, "agent-image", defaultImage(os.Getenv), "image of the agent (also TELESWAP_AGENT_IMAGE)")
	f.StringVar(&o.pullPolicy, "agent-pull-policy", "", "Always, IfNotPresent or Never; empty leaves it to Kubernetes")
	o.env.add(f)
	for flag, complete := range map[string]cobra.CompletionFunc{
		"deployment":        a.completeDeployment,
		"agent-pull-policy": cobra.FixedCompletions([]string{"Always", "IfNotPresent", "Never"}, cobra.ShellCompDirectiveNoFileComp),
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
	return cmd
}

func defaultImage(getenv func(string) string) string {
	if image := getenv("TELESWAP_AGENT_IMAGE"); image != "" {
		return image
	}
	return "docker.io/teleswap/agent:" + version
}

// swapRequest checks what can be checked without the cluster. dash is how many
// arguments came before a --, -1 without one; command is what --run took.
func (a *app) swapRequest(o swapOptions, args []string, dash int, command []string) (*api.SwapRequest, error) {
	target, command, err := splitSwap(o.deployment, args, dash, command)
	if err != nil {
		return nil, err
	}
	if err := checkCommand(command); err != nil {
		return nil, err
	}
	switch o.pullPolicy {
	case "", "Always", "IfNotPresent", "Never":
	default:
		return nil, usage("--agent-pull-policy is Always, IfNotPresent or Never, not %q", o.pullPolicy)
	}
	conn, err := a.kube.connection()
	if err != nil {
		return nil, err
	}
	return &api.SwapRequest{
		Connection: conn, Kind: target.kind, Name: target.name, Container: target.container,
		AgentImage: o.image, AgentPullPolicy: o.pullPolicy, Pid: int64(os.Getpid()), Command: command,
	}, nil
}

type targetName struct{ kind, name, container string }

// splitSwap finds out target and command from the forms in which they may be given.
func splitSwap(flag string, args []string, dash int, run []string) (targetName, []string, error) {
	none := targetName{}
	if dash >= 0 {
		if len(run) > 0 {
			return none, nil, usage("the command is given twice, by --run and after --; give it once")
		}
		args, run = args[:dash], args[dash:]
		if len(run) == 0 {
			return none, nil, usage("there is no command after --\n%s", swapForm)
		}
	}
	switch {
	case flag != "" && len(args) > 0 && dash < 0 && len(run) == 0:
		return none, nil, usage("%q is neither target nor command: write --run in front of the command\n%s", args[0], swapForm)
	case flag != "" && len(args) > 0:
		return none, nil, usage("the target is given twice, %q by --deployment and %q; give it once", flag, args[0])
	case len(args) > 1:
		return none, nil, usage("%q comes after the target: write --run or -- in front of the command\n%s", args[1], swapForm)
	case flag == "" && len(args) == 0:
		return none, nil, usage("which Deployment is to be swapped? name it by --deployment\n%s", swapForm)
	case len(args) == 1:
		flag = args[0]
	}
	if len(run) == 0 {
		return none, nil, usage("which command is to run in its place? name it by --run\n%s", swapForm)
	}
	t, err := parseTarget(flag)
	return t, run, err
}

const swapForm = "for example: teleswap swap --deployment NAME --run COMMAND ARGUMENTS…"

// parseTarget reads [KIND/]NAME[:CONTAINER].
func parseTarget(text string) (targetName, error) {
	kind, rest, hasKind := strings.Cut(text, "/")
	if !hasKind {
		kind, rest = "deployment", text
	}
	name, container, hasContainer := strings.Cut(rest, ":")
	if name == "" || (hasContainer && container == "") || strings.ContainsAny(container, ":/") || strings.Contains(name, "/") {
		return targetName{}, usage("target %q: it is written [deployment/]NAME[:CONTAINER]", text)
	}
	switch strings.ToLower(kind) {
	case "deployment", "deployments", "deploy", "deployments.apps", "deployment.apps":
		return targetName{"deployment", name, container}, nil
	}
	return targetName{}, usage("target %q: only Deployments can be swapped, not a %s", text, kind)
}

// checkCommand finds the command before anything is changed.
func checkCommand(command []string) error {
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

// completeSwap completes a target in the first place and the command's words after it.
func (a *app) completeSwap(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || cmd.Flags().Changed("deployment") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeDeployment(cmd, args, word)
}

// completeTargets offers Deployments.
func (a *app) completeTargets(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeDeployment(cmd, args, word)
}

// completeDeployment offers the namespace's Deployments, and after "NAME:" containers.
func (a *app) completeDeployment(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	targets, err := a.targets(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp // a shell is no place for errors
	}
	prefix := ""
	if rest, ok := strings.CutPrefix(word, "deployment/"); ok {
		prefix, word = "deployment/", rest
	}
	name, _, wantsContainer := strings.Cut(word, ":")
	var words []string
	for _, t := range targets {
		if !wantsContainer {
			words = append(words, prefix+t.GetName())
			continue
		}
		for _, c := range t.GetContainers() {
			if t.GetName() == name {
				words = append(words, prefix+name+":"+c)
			}
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) targets(ctx context.Context) ([]*api.Target, error) {
	conn, err := a.kube.connection()
	if err != nil {
		return nil, err
	}
	silent := *a
	if silent.err, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	defer closeQuietly(silent.err)
	c, err := silent.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer closeQuietly(c)
	reply, err := c.Targets(ctx, &api.TargetsRequest{Connection: conn})
	return reply.GetTargets(), err
}

// The child's ladder of signals: how long each rung has before the next.
const (
	termAfter = 10 * time.Second
	killAfter = 5 * time.Second
	// killAfterTerm is the last rung's patience where SIGTERM was the first.
	killAfterTerm = 10 * time.Second
)
