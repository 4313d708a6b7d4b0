package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

// quitPatience is what the daemon takes between its last word and its end.
const quitPatience = 5 * time.Second

func (a *app) quitCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "quit",
		Short:             "Restore everything and end the daemon",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dialRunning(cmd.Context())
			if errors.Is(err, errNoDaemon) {
				fmt.Fprintln(a.err, "the daemon is not running")
				return nil
			}
			if err != nil {
				return err
			}
			defer closeQuietly(c)
			stream, err := c.Quit(cmd.Context(), &api.QuitRequest{})
			if err != nil {
				return callError(err)
			}
			if _, err := a.watch(cmd.Context(), stream); err != nil {
				return err
			}
			return a.awaitGone(cmd.Context())
		},
	}
}

// awaitGone waits until the daemon has let go of its lock.
func (a *app) awaitGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, quitPatience)
	defer cancel()
	lock, err := api.Lock(ctx, a.paths.Lock)
	if err != nil {
		return fmt.Errorf("the daemon does not end; see %s: %w", a.paths.Log, err)
	}
	return lock.Close()
}
