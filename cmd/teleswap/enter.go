package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/podview"
	"github.com/teleswap/teleswap/daemon/runner"
)

const (
	execForm  = "for example: teleswap exec SESSION -- COMMAND ARGUMENTS…"
	plainExec = "/bin/sh" // where the user has no shell
)

func (a *app) execCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "exec [SESSION|TARGET] -- COMMAND [ARGUMENT…]",
		Short: "Run a command in the sandbox of a session",
		Long: `Runs one more command where a session's process runs: with the pod's network, names,
volumes, variables and hostname, in your working directory and on your terminal. It ends
with the session. The session is named by its id or its target; the only one there is
needs no name. The exit status is the command's.`,
		Example: `  teleswap exec service-a -- curl http://service-b:5100/health
  teleswap exec k3x9qd -- psql -h db`,
		ValidArgsFunction: a.completeExec,
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case dash < 0 && len(args) > 1:
				return usage("%q comes after the session: write -- in front of the command\n%s", args[1], execForm)
			case dash < 0, dash == len(args):
				return usage("which command is to run in the session? write it after --\n%s", execForm)
			case dash > 1:
				return usage("one session is entered at a time, but %q was given too\n%s", args[1], execForm)
			}
			return a.enter(cmd.Context(), strings.Join(args[:dash], ""), func(*api.Session) []string { return args[dash:] })
		},
	}
}

func (a *app) shellCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "shell [SESSION|TARGET]",
		Short: "Open a shell in the sandbox of a session",
		Long: `Runs your shell ($SHELL) where a session's process runs, as teleswap exec would. What is
started in it and listens is reached from the cluster where the session is held for it
(teleswap swap --hold), and else where the session's process does not listen itself.`,
		ValidArgsFunction: a.completeSessions,
		Args:              oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.enter(cmd.Context(), strings.Join(args, ""), func(s *api.Session) []string {
				fmt.Fprintf(a.err, "· in session %s, in the place of %s in %s; exit leaves it\n", s.GetId(), s.GetTarget(), dash(s.GetNamespace()))
				if shell := os.Getenv("SHELL"); shell != "" {
					return []string{shell}
				}
				return []string{plainExec}
			})
		},
	}
}

// completeExec offers sessions, and then what the shell would offer for a command.
func (a *app) completeExec(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeSessions(cmd, args, word)
}

// enter runs a command in a session's sandbox; the command's exit status is the error's.
func (a *app) enter(ctx context.Context, selector string, command func(*api.Session) []string) error {
	s, err := a.findSession(ctx, selector)
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working directory: %w", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	entry := runner.Entry{Argv: command(s), Dir: dir, Env: podview.Local(os.Environ())}
	p, err := runner.Enter(ctx, a.paths.Door(s.GetId()), entry, runner.Stdio{In: a.in, Out: a.out, Err: a.err})
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return cannotEnter(s)
	case err != nil:
		return err
	}
	for {
		select {
		case sig := <-signals:
			// It may have ended meanwhile.
			if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
				fmt.Fprintf(a.err, "! the command could not be sent %s: %v\n", sig, err)
			}
		case <-p.Done():
			exit, err := p.Wait()
			switch {
			case errors.Is(err, runner.ErrSandboxEnded):
				return fmt.Errorf("session %s has ended, and the command with it", s.GetId())
			case err != nil:
				return err
			case exit.Code != 0:
				return &exitError{status: exit.Code}
			}
			return nil
		}
	}
}

// cannotEnter says why a session has no door.
func cannotEnter(s *api.Session) error {
	name := fmt.Sprintf("session %s (%s)", s.GetId(), s.GetTarget())
	switch s.GetState() {
	case "starting":
		return fmt.Errorf("%s has no sandbox yet; `teleswap status` tells how far it is", name)
	case "active":
		return fmt.Errorf("%s has no sandbox that can be entered: it was started with --no-sandbox, or in a container, which `docker exec` enters", name)
	}
	return fmt.Errorf("%s is ending; it cannot be entered any more", name)
}
