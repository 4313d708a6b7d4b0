package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/term"

	"github.com/teleswap/teleswap/daemon/host/warden"
)

// noRootWays are the ways out.
const noRootWays = "without root: `teleswap connect -- COMMAND` for one command, or `teleswap connect --proxy`"

// asRoot runs this program's part for root: by itself where this is root, else by sudo, which may ask for a password; what for is
// said first. Without a terminal nobody can be asked.
func (a *app) asRoot(ctx context.Context, what string, args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	argv := append([]string{exe, warden.Arg}, args...)
	if os.Geteuid() != 0 {
		sudo, err := exec.LookPath("sudo")
		if err != nil {
			return fmt.Errorf("root is needed to %s, and there is no sudo here\n%s", what, noRootWays)
		}
		argv = append([]string{sudo, "--"}, argv...)
		if term.IsTerminal(int(a.in.Fd())) {
			fmt.Fprintf(a.err, "· root is needed to %s; sudo may ask for your password\n", what)
		} else {
			argv = append([]string{sudo, "--non-interactive"}, argv[1:]...)
		}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // sudo and ourselves
	cmd.Stdin, cmd.Stderr = a.in, a.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("root is needed to %s: %w\n%s", what, err, noRootWays)
	}
	return nil
}

// putBack undoes what a connection of the whole machine has left whose processes were killed. It is done before any verb; one that
// cannot be done is no reason not to do what was asked.
func (a *app) putBack(ctx context.Context, args []string) {
	if len(args) == 0 || strings.HasPrefix(args[0], "__") || args[0] == "daemon" || args[0] == "completion" || !warden.LeftBehind(warden.Dir) {
		return
	}
	about := "connected"
	if r, err := warden.Read(warden.Dir); err == nil && r.About != "" {
		about = r.About
	}
	if err := a.asRoot(ctx, "put back this machine's network, which was "+about+" when that was killed"); err != nil {
		fmt.Fprintf(a.err, "! %v\n", errors.Unwrap(err))
		fmt.Fprintf(a.err, "! this machine's resolver still names us, who do not answer: `sudo %s %s` puts it back\n", os.Args[0], warden.Arg)
	}
}
