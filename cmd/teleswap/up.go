package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/project"
	"github.com/teleswap/teleswap/project/compose"
)

// upOptions are the flags of up.
type upOptions struct {
	file      string
	compose   []string
	keepGoing bool
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up [SESSION…]",
		Short: "Start the sessions of a project file together",
		Long: `Starts the sessions that .teleswap.yaml names, all or those that are given, each as a
swap of its own. The file is looked for in the working folder and those above it.
Each line of output bears its session's name; on a terminal the last lines show how
they all are. Ctrl-C ends them all, and once more hurries them.

Until all are swapped, one that fails ends all (--keep-going: the others stay); after
that each is on its own, and up ends with the last of them.
The exit status is 0 when all ended well or because you wanted it, else that of the
first that failed; 2 for wrong usage, with nothing changed.`,
		Example: `  teleswap up
  teleswap up web worker
  teleswap up --compose docker-compose.yml`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.completeProject(cmd.Context(), o, args), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			file, err := a.upFile(cmd.Context(), o)
			if err != nil {
				return err
			}
			sessions, err := file.Pick(args, func(word string, names []string) string { return didYouMean(word, names, "") })
			if err != nil {
				return usage("%v", err)
			}
			flags, err := handedOn(cmd.InheritedFlags())
			if err != nil {
				return err
			}
			if sessions, err = a.readySessions(sessions); err != nil {
				return err
			}
			return a.up(cmd.Context(), sessions, flags, o.keepGoing)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "the project `FILE`, instead of the .teleswap.yaml that is found")
	f.StringArrayVar(&o.compose, "compose", nil, "start the services that x-teleswap names in a compose `FILE`, instead of a project file's sessions (repeatable)")
	f.BoolVar(&o.keepGoing, "keep-going", false, "let the others go on when one fails before all are swapped")
	return cmd
}

// upFile reads what names the sessions.
func (a *app) upFile(ctx context.Context, o upOptions) (*project.File, error) {
	if len(o.compose) == 0 {
		path, err := projectPath(o.file)
		if err != nil {
			return nil, err
		}
		return a.readProject(path)
	}
	if o.file != "" {
		return nil, usage("--file and --compose name the sessions in two ways; take one of them")
	}
	file, err := compose.Read(ctx, o.compose, os.Environ(), projectRules())
	if err != nil {
		return nil, usage("%v", err)
	}
	return file, nil
}

// readySessions finds what would fail before anything is changed, and puts the flags that hold over the file in their places.
func (a *app) readySessions(sessions []project.Session) ([]project.Session, error) {
	all := make([]project.Session, len(sessions))
	for i, s := range sessions {
		if context := *a.kube.flags.Context; context != "" {
			s.Context = context
		}
		if namespace := *a.kube.flags.Namespace; namespace != "" {
			s.Namespace = namespace
		}
		all[i] = s
	}
	if err := project.Clashes(all, a.kube.place); err != nil {
		return nil, wrongFile(err)
	}
	if err := project.Ready(all); err != nil {
		return nil, wrongFile(err)
	}
	return all, nil
}

// pathFlags are flags of the connection that name files; sessions have folders of their own.
var pathFlags = map[string]bool{"kubeconfig": true, "certificate-authority": true, "client-certificate": true, "client-key": true}

// handedOn are the flags of the connection that were given, for the sessions' own command lines. Those that a
// session may say itself are not among them.
func handedOn(flags *pflag.FlagSet) (args []string, err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Changed || f.Name == "context" || f.Name == "namespace" {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, v := range values {
			if pathFlags[f.Name] && v != "" {
				abs, absErr := filepath.Abs(v)
				if absErr != nil {
					err = absErr
				}
				v = abs
			}
			args = append(args, "--"+f.Name+"="+v)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	return args, nil
}

// sessionEnviron is the environment of the swaps: ours, with a kubeconfig that their folders do not change.
func sessionEnviron(environ []string) []string {
	all := make([]string, 0, len(environ))
	for _, kv := range environ {
		if list, is := strings.CutPrefix(kv, "KUBECONFIG="); is && list != "" {
			paths := filepath.SplitList(list)
			for i, path := range paths {
				if abs, err := filepath.Abs(path); err == nil && path != "" {
					paths[i] = abs
				}
			}
			kv = "KUBECONFIG=" + strings.Join(paths, string(filepath.ListSeparator))
		}
		all = append(all, kv)
	}
	return all
}

// completeProject offers the sessions of the file that are not named yet.
func (a *app) completeProject(ctx context.Context, o upOptions, named []string) []string {
	file, err := a.upFile(ctx, o)
	if err != nil {
		return nil // a shell is no place for errors
	}
	given := map[string]bool{}
	for _, name := range named {
		given[name] = true
	}
	var words []string
	for _, s := range file.Sessions {
		if !given[s.Name] {
			what := s.Target.Text
			if s.New {
				what += ", made anew"
			}
			words = append(words, s.Name+"\t"+what)
		}
	}
	return words
}
