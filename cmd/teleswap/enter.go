package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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
needs no name. The exit status is the command's. Of a session of --docker-run it is
docker exec, with the pod's variables: in the container, with its files.`,
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
				place := "in the place of " + s.GetTarget()
				if s.GetConnects() {
					place = "on the network of the cluster,"
				}
				fmt.Fprintf(a.err, "· in session %s, %s in %s; exit leaves it\n", s.GetId(), place, dash(s.GetNamespace()))
				return shellOf(s, os.Getenv("SHELL"))
			})
		},
	}
}

// shellOf is what is run for a shell: the user's own, or in a container the best that it has.
func shellOf(s *api.Session, own string) []string {
	switch {
	case s.GetContainer() != "":
		return []string{plainExec, "-c", "if command -v bash >/dev/null; then exec bash; fi; exec " + plainExec}
	case own != "":
		return []string{own}
	}
	return []string{plainExec}
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
	if s.GetContainer() != "" {
		return a.enterContainer(s, command(s))
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

// enterContainer becomes docker exec: its terminal, signals and exit status are the command's then. It returns only an error.
func (a *app) enterContainer(s *api.Session, command []string) error {
	path, err := exec.LookPath("docker")
	if err != nil {
		return fmt.Errorf("session %s is in docker's container %s, and there is no docker in your PATH to enter it by: %w", s.GetId(), s.GetContainer(), err)
	}
	flags := []string{"-i"}
	if term.IsTerminal(int(a.in.Fd())) && term.IsTerminal(int(a.out.Fd())) {
		flags = []string{"-it"}
	}
	if err := become(path, append([]string{"docker"}, runner.ExecWords(s.GetContainer(), flags, command)...)); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// cannotEnter says why a session has no door.
func cannotEnter(s *api.Session) error {
	name := fmt.Sprintf("session %s (%s)", s.GetId(), s.GetTarget())
	switch s.GetState() {
	case "starting":
		return fmt.Errorf("%s has no sandbox yet; `teleswap status` tells how far it is", name)
	case "active":
		if s.GetConnects() {
			return fmt.Errorf("%s has no sandbox to enter; `teleswap connect -- COMMAND` runs a command on the network of the cluster", name)
		}
		return fmt.Errorf("%s has no sandbox that can be entered: it was started with --no-sandbox", name)
	}
	return fmt.Errorf("%s is ending; it cannot be entered any more", name)
}
