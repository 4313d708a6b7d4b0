package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

// holdFlags say whether a swap has a command of its own, and where it goes on.
type holdFlags struct{ hold, detach bool }

func (h *holdFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&h.hold, "hold", false, "run no command: hold the swap for a process that you start yourself, in an IDE or by teleswap shell;\n"+
		"--expose without a command does the same")
	f.BoolVarP(&h.detach, "detach", "d", false, "give the terminal back once the swap is active, and print the session's id; teleswap leave ends it")
}

// inPlace stands for a command where there is none, while the command line is split.
const inPlace = "-"

// holds says whether the command line means to hold the swap, and has the flags be right.
func (o *swapOptions) holds(dash int, command []string) (bool, error) {
	none := dash < 0 && len(command) == 0
	holds := o.hold.hold || none && len(o.ports.expose) > 0
	switch {
	case o.hold.hold && !none:
		return false, usage("--hold runs no command, but one is given: leave out the one or the other")
	case holds && o.watch.on():
		return false, usage("--watch starts a command again, and there is none: name it by --run, or leave --watch away")
	case holds && o.debug.port != "":
		return false, usage("--debug starts a command, and there is none: name it by --run, or leave --debug away")
	}
	return holds, nil
}

// swapHereOrBehind runs a swap, or has it run in the background.
func (a *app) swapHereOrBehind(ctx context.Context, detach bool, req *api.SwapRequest, w wishes) error {
	if detach && a.background == nil {
		return a.detach(ctx)
	}
	return a.swap(ctx, req, w)
}

// childStreams are the files of the process: none where it is another's to start.
func (s *swapping) childStreams() streams {
	if s.wishes.hold {
		return streams{err: s.app.err} // of hooks
	}
	return s.app.streams
}

// heldLine says how a process comes to be the one that is waited for.
func (s *swapping) heldLine() {
	if s.wishes.exposes != "" {
		return
	}
	variables := "--env-json FILE and --env-write FILE write its variables"
	if file := cmp.Or(s.wishes.env.json, s.wishes.env.lines); file != "" {
		variables = "its variables are in " + file
	}
	s.ui.line("· held for a process that you start yourself, %s; %s", s.heldPlace("on this machine"), variables)
}

// heldPlace is where that process may be started.
func (s *swapping) heldPlace(here string) string {
	if s.req.GetNoSandbox() {
		return here // there is no other
	}
	return fmt.Sprintf("%s or in `teleswap shell %s`", here, s.sessionID)
}

// activeLine says that the swap stands, and how it ends.
func (s *swapping) activeLine(m *api.Active) {
	end := "Ctrl-C"
	if s.app.background != nil {
		end = "`teleswap leave " + s.sessionID + "`"
	}
	switch {
	case s.wishes.exposes != "":
		s.exposedLine(end)
	case s.wishes.hold:
		s.ui.line("swapped: %s is now the process that you start, %s; %s ends it", m.GetTarget(), s.heldPlace("here"), end)
	default:
		s.ui.line("swapped: %s is now this process (pid %d); %s ends it", m.GetTarget(), m.GetPid(), end)
	}
	s.app.sayActive(s.sessionID)
}
