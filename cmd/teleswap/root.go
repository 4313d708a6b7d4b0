package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/spelling"
)

// streams are the process's files. Standard output belongs to a swap's child, and to
// what a verb was asked to print; everything that is said goes to err.
type streams struct{ in, out, err *os.File }

// app is what the verbs share.
type app struct {
	streams
	paths api.Paths
	state string // directory of the ledger's parent
	kube  *kubeFlags
	told  bool // a starting daemon had something to say
	// inContainer says that a swap's command is docker run's.
	inContainer bool
	// oldEnv are variables that the old tool set for its command, where its command line was given.
	oldEnv []string
	// background is where a swap in the background says that it is active; nil: this is none.
	background *os.File
}

// exitError ends the program with a status; its message, if any, is printed.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

const (
	statusFailure = 1
	statusUsage   = 2
	statusSignal  = 128 // plus the signal's number
)

func usage(format string, args ...any) error {
	return &exitError{statusUsage, fmt.Errorf(format, args...)}
}

// run is the whole program: it returns the exit status.
func run(ctx context.Context, args []string, s streams) int {
	if completes(os.Args[0]) {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	a := &app{streams: s, paths: runtimePaths(), state: stateDir(), kube: newKubeFlags(), background: takeDetached()}
	a.putBack(ctx, args)
	args, err := a.takeOldForm(args)
	var command []string
	if err == nil {
		args, command, a.inContainer, err = splitRun(args)
	}
	if err == nil {
		root := a.rootCommand(command)
		if calledAs := pluginName(os.Args[0]); calledAs != "" {
			root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: calledAs}
		}
		root.SetArgs(joinWatch(args))
		err = root.ExecuteContext(ctx)
	}
	status := exitStatus(err)
	var exit *exitError
	if errors.As(err, &exit) {
		err = exit.err
	}
	if err != nil {
		fmt.Fprintln(s.err, "teleswap:", err)
	}
	return status
}

// exitStatus is the exit status for an error.
func exitStatus(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.status
	}
	return statusFailure
}

func (a *app) rootCommand(command []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "teleswap",
		Short: "Put a local process in the place of a workload in a Kubernetes cluster",
		Long: `Teleswap runs a process on this machine in the place of a workload in a Kubernetes
cluster: the cluster's traffic reaches it, it reaches the cluster's Services by name,
and it has the environment of the pod. When it ends, the cluster is as it was.

The command line of Telepresence 1.x works, too (teleswap --swap-deployment NAME --run COMMAND…),
and is answered with the new form.`,
		Example:       "  teleswap swap --deployment service-a --run go run .\n  teleswap swap service-a -- ./server --port 8080",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noSuchVerb,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// Hints of our own name the verbs that come near.
		DisableSuggestions: true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDescriptions = false
	a.kube.add(root.PersistentFlags())
	a.kube.complete(root, a.namespaces)
	root.AddCommand(a.swapCommand(command), a.connectCommand(command), a.disconnectCommand(), a.forwardCommand(), a.exposeCommand(), a.statusCommand(), a.listCommand(), a.leaveCommand(), a.execCommand(), a.shellCommand(),
		a.restoreCommand(), a.upCommand(), a.initCommand(), a.configCommand(), a.imageCommand(), a.doctorCommand(), a.gatherCommand(), a.farCommand(),
		a.versionCommand(), a.quitCommand(), a.daemonCommand())
	return root
}

// noSuchVerb answers a first word that is no verb.
func noSuchVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return usage("there is no command %q%s\nsee `teleswap --help`", args[0], didYouMean(args[0], names, ""))
}

// flagError answers a flag that is wrong, and names the flags that come near.
func flagError(cmd *cobra.Command, err error) error {
	text := err.Error()
	hint := ""
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		name := unknown.GetSpecifiedName()
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		hint = didYouMean(name, names, "--")
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) && invalid.GetFlag().Value.Type() == "bool" {
		name := invalid.GetFlag().Name
		text = fmt.Sprintf("--%s is true or false, not %q; --%s alone is true", name, invalid.GetValue(), name)
	}
	return usage("%s%s\nsee `%s --help`", text, hint, cmd.CommandPath())
}

// checkValues refuses a flag whose value would be the -- that was meant to end the flags.
func checkValues(flags *pflag.FlagSet) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		if slices.Contains(values, "--") {
			err = usage("--%s has no value: -- follows it, which ends the flags", f.Name)
		}
	})
	return err
}

// didYouMean is a question with the names nearest to a word; empty when none is near.
func didYouMean(word string, names []string, prefix string) string {
	best := spelling.Nearest(word, names)
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, best)
}

func runtimePaths() api.Paths {
	return api.PathsIn(api.RuntimeDir(os.Getenv, os.TempDir(), os.Getuid()))
}

func stateDir() string {
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir() // without a home the ledger is at least somewhere
	}
	return api.StateDir(os.Getenv, home)
}
