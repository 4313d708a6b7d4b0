package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

type versionOutput struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Daemon  string `json:"daemon,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "Print the version of this program and of the daemon that runs",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionOutput{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if c, err := a.dialRunning(cmd.Context()); err == nil {
				defer closeQuietly(c)
				if reply, err := c.Version(cmd.Context(), &api.VersionRequest{}); err == nil {
					v.Daemon = reply.GetVersion()
				}
			}
			return output.write(a.out, v, func() error {
				fmt.Fprintf(a.out, "teleswap %s %s/%s %s\n", v.Version, v.OS, v.Arch, v.Go)
				if v.Daemon != "" {
					fmt.Fprintf(a.out, "daemon   %s\n", v.Daemon)
				}
				return nil
			})
		},
	}
	output.add(cmd)
	return cmd
}
