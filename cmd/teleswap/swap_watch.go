package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/cmd/teleswap/internal/changes"
	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/runner"
)

// watchFlags are the flags of swap that say which files' changes restart the command.
type watchFlags struct{ globs []string }

const watchFlag = "--watch"

func (w *watchFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&w.globs, "watch", nil, "start the command again, in the same sandbox, when files change that a `GLOB` names: --watch='*.go', --watch='web/**/*.html',\n"+
		"--watch=FOLDER; alone all in the working folder, but for hidden folders, node_modules and vendor. The swap stays, and\n"+
		"connections that arrive in between wait (repeatable)")
	f.Lookup("watch").NoOptDefVal = "."
}

func (w watchFlags) on() bool { return len(w.globs) > 0 }

// open begins to watch; nil where that is not wanted.
func (w watchFlags) open(ctx context.Context) (*changes.Watcher, error) {
	if !w.on() {
		return nil, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	sources, err := changes.Watch(ctx, dir, w.globs)
	if err != nil {
		return nil, usage("--watch: %v", err)
	}
	return sources, nil
}

// joinWatch lets --watch's value stand by itself where it has wildcards. Any other word after it is the target, for the value
// may be left away.
func joinWatch(args []string) []string {
	args = slices.Clone(args)
	for i := 0; i+1 < len(args) && args[i] != "--"; i++ {
		if args[i] == watchFlag && strings.ContainsAny(args[i+1], "*?[") && !strings.HasPrefix(args[i+1], "-") {
			args[i] += "=" + args[i+1]
			args = slices.Delete(args, i+1, i+2)
		}
	}
	return args
}

// sourcesChanged has the command started again, or remembers to.
func (s *swapping) sourcesChanged(names []string) {
	c := &s.child
	switch {
	case s.ending(), c.asked: // the command that starts next will have them
	case c.starting(), c.turning:
		c.changed = append(c.changed, names...)
	case c.running() && c.turns != nil:
		s.restart(names)
	}
}

// ending says that the command is not to be started any more.
func (s *swapping) ending() bool {
	return s.begun != nil || s.done != nil || s.broken != nil || s.child.rung != rungNone
}

// restart begins to restart the command: the daemon sees to it first that nobody calls it any more.
func (s *swapping) restart(names []string) {
	s.ui.line("· %s: restarting the command", changedText(names))
	s.child.asked, s.child.changed = true, nil
	s.send(&api.SwapUp{Message: &api.SwapUp_ChildRestarting{ChildRestarting: &api.ChildRestarting{}}})
}

// restartNow restarts the command, unless it is to end meanwhile.
func (s *swapping) restartNow() {
	s.child.asked = false
	if s.ending() || !s.child.running() {
		return
	}
	s.child.turning = true
	if err := s.child.process.(restarter).Restart(killAfterTerm); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.ui.line("! the command could not be restarted: %v", err)
	}
}

// childTurned takes in that the command was started again, or waits for it.
func (s *swapping) childTurned(t runner.Turn) {
	c := &s.child
	c.turning, c.paused = false, t.Pid == 0
	if s.ending() {
		c.signal(syscall.SIGTERM, s.ui)
		return
	}
	switch {
	case t.Pid != 0:
		s.ui.line("· restarted (pid %d)", t.Pid)
		s.tellStarted()
	case t.Err != nil:
		s.ui.line("! the command could not be started: %v\nit is tried again when a file changes; Ctrl-C ends the swap", t.Err)
	default:
		s.ui.line("! the command has ended (exit status %d); it starts again when a file changes, Ctrl-C ends the swap", t.Exit.Code)
	}
	if len(c.changed) > 0 {
		s.restart(c.changed)
	}
}

// changedText names one file, as seen from the working folder.
func changedText(names []string) string {
	name := names[0]
	if dir, err := os.Getwd(); err == nil {
		if below, err := filepath.Rel(dir, name); err == nil && !strings.HasPrefix(below, "..") {
			name = below
		}
	}
	if n := len(names) - 1; n > 0 {
		return fmt.Sprintf("%s and %d more changed", name, n)
	}
	return name + " changed"
}
