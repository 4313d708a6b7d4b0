package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/project"
)

// initOptions are the flags of init.
type initOptions struct {
	deployment string
	force      bool
}

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [--deployment NAME] [-- COMMAND…]",
		Short: "Write a project file for a Deployment",
		Long: `Writes .teleswap.yaml into the working folder, for a Deployment that you pick in a list, or that
--deployment names. The command is the one after --, or the one that the folder's files tell
(go.mod: go run .; package.json: npm start; and so on). A file that is there stays, but with --force.`,
		Example: `  teleswap init
  teleswap init --deployment web:app -- go run ./cmd/web`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			if dash := cmd.ArgsLenAtDash(); dash != 0 && len(args) > 0 {
				return usage("%q is no flag: name the Deployment by --deployment, and write -- in front of the command", args[0])
			} else if dash == 0 && len(args) == 0 {
				return usage("there is no command after --")
			}
			return a.initProject(cmd.Context(), o, args)
		},
	}
	cmd.Flags().StringVar(&o.deployment, "deployment", "", "the Deployment, `NAME` or NAME:CONTAINER, instead of a list to pick from")
	cmd.Flags().BoolVar(&o.force, "force", false, "replace the file that is there")
	if err := cmd.RegisterFlagCompletionFunc("deployment", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeNames(cmd, word, kube.Deployment)
	}); err != nil {
		cobra.CompErrorln(err.Error())
	}
	return cmd
}

func (a *app) initProject(ctx context.Context, o initOptions, command []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working directory: %w", err)
	}
	path := filepath.Join(dir, project.Name)
	if _, err := os.Lstat(path); err == nil && !o.force {
		return usage("%s is there already; add a session to it, or replace it by --force", path)
	}
	if len(command) == 0 {
		command = project.Guess(os.DirFS(dir))
	}
	if len(command) == 0 {
		return usage("the files in %s do not tell how it is run; write the command after --, for example: teleswap init -- ./server --port 8080", dir)
	}
	interactive := term.IsTerminal(int(a.in.Fd())) && term.IsTerminal(int(a.err.Fd()))
	if o.deployment == "" && !interactive {
		return usage("there is no terminal to pick a Deployment on; name it: teleswap init --deployment NAME; `teleswap list` shows what there is")
	}
	if err := a.checkCommand(command); err != nil {
		fmt.Fprintln(a.err, "!", err)
	}
	namespace, all, err := a.deployments(ctx)
	if err != nil {
		return err
	}
	target, err := a.chooseTarget(o.deployment, namespace, all)
	if err != nil {
		return err
	}
	kubeContext := *a.kube.flags.Context
	data, err := project.Example(kubeContext, namespace, target, command)
	if err != nil {
		return err
	}
	if err := writeNew(path, data, o.force); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "%s: %s, by %s\n`teleswap up` starts it\n", path, target, strings.Join(command, " "))
	if above, err := project.Find(filepath.Dir(dir)); err == nil {
		fmt.Fprintf(a.err, "! from here on %s does not hold in this folder any more\n", above)
	}
	return nil
}

// deployments are those of the namespace.
func (a *app) deployments(ctx context.Context) (namespace string, all []*api.Target, err error) {
	conn, err := a.kube.connection()
	if err != nil {
		return "", nil, err
	}
	c, err := a.dial(ctx)
	if err != nil {
		return "", nil, err
	}
	defer closeQuietly(c)
	reply, err := c.Targets(ctx, &api.TargetsRequest{Connection: conn})
	if err != nil {
		return "", nil, callError(err)
	}
	for _, t := range reply.GetTargets() {
		if t.GetKind() == kube.Deployment.String() {
			all = append(all, t)
		}
	}
	if len(all) == 0 {
		return "", nil, usage("there is no Deployment in namespace %s; name another one with --namespace", reply.GetNamespace())
	}
	return reply.GetNamespace(), all, nil
}

// chooseTarget finds the Deployment that was named, or has the user pick one; and a container of it, where there are several.
func (a *app) chooseTarget(named, namespace string, all []*api.Target) (string, error) {
	name, container, _ := strings.Cut(named, ":")
	names := make([]string, len(all))
	for i, t := range all {
		names[i] = t.GetName()
	}
	at := slices.Index(names, name)
	switch {
	case named == "":
		var err error
		if at, err = a.pick("Which Deployment is to be swapped? (namespace "+namespace+")", names); err != nil {
			return "", err
		}
	case at < 0:
		return "", usage("there is no deployment %q in namespace %s%s", name, namespace, didYouMean(name, names, ""))
	}
	target, containers := kube.Deployment.String()+"/"+names[at], all[at].GetContainers()
	switch {
	case container != "" && !slices.Contains(containers, container):
		return "", usage("%s has no container %q; it has %s", target, container, strings.Join(containers, ", "))
	case container != "":
		return target + ":" + container, nil
	case len(containers) < 2:
		return target, nil
	case named != "":
		return "", usage("%s has several containers; name one: --deployment %s:{%s}", target, name, strings.Join(containers, "|"))
	}
	picked, err := a.pick("Which of its containers?", containers)
	if err != nil {
		return "", err
	}
	return target + ":" + containers[picked], nil
}

// writeNew writes a file; one that is there only with force.
func writeNew(path string, data []byte, force bool) error {
	mode := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if force {
		mode = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	}
	f, err := os.OpenFile(path, mode, 0o644) //nolint:gosec // a project's file is everybody's to read
	if errors.Is(err, fs.ErrExist) {
		return usage("%s is there already; replace it by --force", path)
	}
	if err != nil {
		return fmt.Errorf("write the project file: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the project file: %w", err)
	}
	return nil
}
