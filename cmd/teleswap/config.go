package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/project"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a project file, or print its schema",
		Args:  noSuchVerb,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check a project file",
		Long: `Checks a project file, the .teleswap.yaml that is found from here upwards if none is named: that it is
written as it should be, and that the folders, files and programs that it names are here. The cluster is
not asked. Each thing that is wrong is a line FILE:LINE:COLUMN, and the exit status is 2.`,
		Args: oneArgument,
		RunE: func(_ *cobra.Command, args []string) error {
			named := ""
			if len(args) > 0 {
				named = args[0]
			}
			return a.validate(named)
		},
	}, &cobra.Command{
		Use:               "schema",
		Short:             "Print the JSON schema of a project file, for editors",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(project.Schema)
			return err
		},
	})
	return cmd
}

func (a *app) validate(named string) error {
	path, err := projectPath(named)
	if err != nil {
		return err
	}
	file, err := a.readProject(path)
	if err != nil {
		return err
	}
	if err := project.Clashes(file.Sessions, a.kube.place); err != nil {
		return wrongFile(err)
	}
	if err := project.Ready(file.Sessions); err != nil {
		return wrongFile(err)
	}
	_, err = fmt.Fprintf(a.out, "%s: ok, %s\n", path, countSessions(len(file.Sessions)))
	return err
}
