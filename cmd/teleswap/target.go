package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/kube"
)

// scaleFirst is the order of steps that may be asked for.
const scaleFirst = "scale-first"

// targetFlags name a target, and say how it is to be swapped.
type targetFlags struct {
	named    []string // KIND/NAME[:CONTAINER]
	node     string
	order    string
	skipInit bool
}

func (t *targetFlags) add(f *pflag.FlagSet) {
	for _, kind := range kube.Kinds() {
		f.Func(kind.String(), "the "+string(kind)+" to swap, `NAME` or NAME:CONTAINER", func(text string) error {
			t.named = append(t.named, kind.String()+"/"+text)
			return nil
		})
	}
	f.StringVar(&t.node, "node", "", "of a DaemonSet: the node whose pod is swapped; that of its first Ready pod if left away")
	f.StringVar(&t.order, "order", "", "scale-first: the original goes before the agent comes, so nobody answers in between;\n"+
		"chosen by itself where both cannot run at once (hostPort, ReadWriteOncePod)")
	f.BoolVar(&t.skipInit, "skip-init", false, "leave out the target's init containers; sidecars among them stay")
}

type targetName struct{ kind, name, container string }

// splitSwap finds out target and command from the forms in which they may be given; fresh is the name of what is to be
// made instead of a target.
func splitSwap(flags targetFlags, fresh string, args []string, dash int, run []string) (targetName, []string, error) {
	none, flag := targetName{}, strings.Join(flags.named, " ")
	if len(flags.named) > 1 {
		return none, nil, usage("the target is given more than once, by flags: %s; give it once", strings.Join(flags.named, ", "))
	}
	if fresh != "" && flag != "" {
		return none, nil, usage("--new makes a Deployment of its own, so there is no target to swap: leave out --new, or %s", flag)
	}
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
	case fresh != "" && len(args) > 0 && (dash >= 0 || len(run) > 0):
		return none, nil, usage("--new makes a Deployment of its own, so there is no target to swap: leave out --new, or %q", args[0])
	case (flag != "" || fresh != "") && len(args) > 0 && dash < 0 && len(run) == 0:
		return none, nil, usage("%q is neither target nor command: write --run in front of the command\n%s", args[0], swapForm)
	case flag != "" && len(args) > 0:
		return none, nil, usage("the target is given twice, %q by a flag and %q; give it once", flag, args[0])
	case len(args) > 1:
		return none, nil, usage("%q comes after the target: write --run or -- in front of the command\n%s", args[1], swapForm)
	case flag == "" && fresh == "" && len(args) == 0:
		return none, nil, usage("which workload is to be swapped? name it, for example by --deployment; where there is none yet, --new NAME makes one\n%s", swapForm)
	case len(args) == 1:
		flag = args[0]
	}
	if len(run) == 0 {
		return none, nil, usage("which command is to run in its place? name it by --run; or --expose PORT holds the swap for a process that you start yourself\n%s", swapForm)
	}
	parse := parseTarget
	if fresh != "" {
		flag, parse = fresh, parseNew
	}
	t, err := parse(flag)
	return t, run, err
}

const swapForm = "for example: teleswap swap --deployment NAME --run COMMAND ARGUMENTS…"

// parseTarget reads [KIND/]NAME[:CONTAINER]. The kind is empty where none is said.
func parseTarget(text string) (targetName, error) {
	said, rest, hasKind := strings.Cut(text, "/")
	if !hasKind {
		said, rest = "", text
	}
	name, container, hasContainer := strings.Cut(rest, ":")
	if name == "" || (hasContainer && container == "") || strings.ContainsAny(container, ":/") || strings.Contains(name, "/") {
		return targetName{}, usage("target %q: it is written [KIND/]NAME[:CONTAINER]", text)
	}
	if !hasKind {
		return targetName{"", name, container}, nil
	}
	kind, known := kube.ParseKind(said)
	if !known {
		var names []string
		for _, k := range kube.Kinds() {
			names = append(names, k.String())
		}
		return targetName{}, usage("target %q: a %s cannot be swapped; the kinds are %s", text, said, strings.Join(names, ", "))
	}
	return targetName{kind.String(), name, container}, nil
}

// completeSwap completes a target in the first place and the command's words after it.
func (a *app) completeSwap(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || slices.ContainsFunc(kube.Kinds(), func(k kube.Kind) bool { return cmd.Flags().Changed(k.String()) }) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeTarget(cmd, args, word)
}

// completeTargets offers what can be swapped.
func (a *app) completeTargets(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeTarget(cmd, args, word)
}

// completeTargetFlags completes the values of the flags that name a target: the names of
// one kind.
func (a *app) completeTargetFlags(cmd *cobra.Command) {
	fixed := cobra.FixedCompletions([]string{scaleFirst}, cobra.ShellCompDirectiveNoFileComp)
	for flag, complete := range map[string]cobra.CompletionFunc{"order": fixed, "node": cobra.NoFileCompletions} {
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
	for _, kind := range kube.Kinds() {
		complete := func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return a.completeNames(cmd, word, kind)
		}
		if err := cmd.RegisterFlagCompletionFunc(kind.String(), complete); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
}

// completeTarget offers names of Deployments without their kind and of the other kinds
// with it; after a kind the names of that kind, and after "NAME:" containers.
func (a *app) completeTarget(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	said, rest, hasKind := strings.Cut(word, "/")
	if !hasKind {
		return a.completeNames(cmd, word, "")
	}
	kind, known := kube.ParseKind(said)
	if !known {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	words, directive := a.completeNames(cmd, rest, kind)
	for i := range words {
		words[i] = said + "/" + words[i]
	}
	return words, directive
}

// completeNames offers names of a kind; of no kind, all targets.
func (a *app) completeNames(cmd *cobra.Command, word string, kind kube.Kind) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	targets, err := a.targets(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp // a shell is no place for errors
	}
	wanted, _, wantsContainer := strings.Cut(word, ":")
	var words []string
	for _, t := range targets {
		name := t.GetName()
		switch {
		case kind != "" && t.GetKind() != kind.String():
			continue
		case !wantsContainer && kind == "" && t.GetKind() != kube.Deployment.String():
			name = t.GetKind() + "/" + name
		}
		if !wantsContainer {
			words = append(words, name)
			continue
		}
		for _, c := range t.GetContainers() {
			if name == wanted {
				words = append(words, name+":"+c)
			}
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
