package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/doctor"
)

// The columns of doctor's lines.
const (
	stateWidth = 5
	checkWidth = 16
)

func (a *app) doctorCommand() *cobra.Command {
	var output outputFormat
	var roundTrip bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this machine and the cluster have what Teleswap needs",
		Long: `Checks the kubeconfig, the API server, your permissions, this machine's kernel, resolver and routes, the agent's
image, the daemon, and looks for what dead sessions have left. Each line says ok or not, why, and what to do; "note"
stands where something was not checked, or is good to know. Nothing is changed, and no daemon is started.

The last check, a round trip, makes an agent in the namespace, has a process reach the API server through it,
and takes it away again: it asks before, or --round-trip does it and --round-trip=false does not.
The exit status is 1 if something is not as it should be.`,
		Example:           "  teleswap doctor\n  teleswap doctor --round-trip --namespace shop\n  teleswap doctor --output json",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.doctorConfig()
			if err != nil {
				return err
			}
			paint := newProgress(a.out)
			tell := func(f doctor.Finding) { a.printFinding(paint, f) }
			if output != "" {
				tell = nil
			}
			e := doctor.Run(cmd.Context(), cfg, tell)
			defer closeQuietly(e)
			wanted := cmd.Flags().Changed("round-trip")
			e.Add(a.roundTripFinding(cmd.Context(), e, roundTrip, !wanted && output == ""))
			report := e.Report()
			if err := output.write(a.out, report, func() error { return nil }); err != nil {
				return err
			}
			if !report.OK {
				return &exitError{status: statusFailure}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&roundTrip, "round-trip", false, "make an agent in the cluster and take it away again, without asking")
	output.add(cmd)
	return cmd
}

func (a *app) doctorConfig() (doctor.Config, error) {
	conn, err := a.kube.plainConnection()
	if err != nil {
		return doctor.Config{}, err
	}
	cfg := doctor.Config{
		Connection: conn, Version: version, Build: buildID(), Image: defaultImage(os.Getenv), Paths: a.paths, StateDir: a.state,
		User: userName(), Host: hostName(), HostDir: warden.Dir,
	}
	if runtime.GOOS != "windows" && runtime.GOOS != "darwin" { // whose resolvers have other places
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	return cfg, nil
}

// printFinding prints one line, and what to do on another.
func (a *app) printFinding(paint *progress, f doctor.Finding) {
	state := pad(string(f.State), stateWidth)
	switch f.State {
	case doctor.OK:
		state = paint.paint(green, state)
	case doctor.Not:
		state = paint.paint(red, state)
	case doctor.Note:
		state = paint.paint(yellow, state)
	}
	fmt.Fprintf(a.out, "%s %s %s\n", state, pad(f.Check, checkWidth), f.Says)
	if f.Do != "" {
		fmt.Fprintf(a.out, "%s→ %s\n", strings.Repeat(" ", stateWidth+checkWidth+2), f.Do)
	}
}

// roundTripFinding makes a round trip, where it is wanted or the user agrees to it.
func (a *app) roundTripFinding(ctx context.Context, e *doctor.Examination, wanted, mayAsk bool) doctor.Finding {
	const check = "round trip"
	note := func(says, do string) doctor.Finding {
		return doctor.Finding{Check: check, State: doctor.Note, Says: says, Do: do}
	}
	if !e.Reachable() {
		return note("not made: there is no API server to ask", "")
	}
	if !wanted && mayAsk {
		wanted = a.agrees(fmt.Sprintf("Make an agent in namespace %s for a round trip, and take it away again? [y/N] ", e.Namespace()))
	}
	if !wanted {
		return note("not made: it makes an agent in the cluster, and takes it away again", "--round-trip makes it")
	}
	return a.roundTrip(ctx, !hasSandbox || !e.Sandbox())
}

// agrees asks a question at the terminal; without one nobody agrees.
func (a *app) agrees(question string) bool {
	if !term.IsTerminal(int(a.in.Fd())) || !term.IsTerminal(int(a.err.Fd())) {
		return false
	}
	fmt.Fprint(a.err, question)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil {
		fmt.Fprintln(a.err)
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
