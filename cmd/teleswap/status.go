package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
)

type statusOutput struct {
	Daemon   *daemonOutput   `json:"daemon"` // null: it does not run
	Sessions []sessionOutput `json:"sessions"`
}

type daemonOutput struct {
	PID     int64  `json:"pid"`
	Version string `json:"version"`
}

type sessionOutput struct {
	ID        string       `json:"id"`
	Target    string       `json:"target"`
	Namespace string       `json:"namespace"`
	Context   string       `json:"context"`
	State     string       `json:"state"`
	Since     time.Time    `json:"since"`
	PID       int64        `json:"pid,omitempty"`
	Command   []string     `json:"command,omitempty"`
	Transport string       `json:"transport,omitempty"`
	AgentPod  string       `json:"agentPod,omitempty"`
	Problem   string       `json:"problem,omitempty"`
	Steps     []stepOutput `json:"steps"`

	// Of the way to the agent: what a round trip takes now (0: there was no answer), bytes that came and went, questions to the
	// pod's resolver.
	LatencyMilliseconds float64  `json:"latencyMilliseconds"`
	BytesIn             uint64   `json:"bytesIn"`
	BytesOut            uint64   `json:"bytesOut"`
	DNSQueries          uint64   `json:"dnsQueries"`
	HostChanges         []string `json:"hostChanges"` // what was changed on this machine
	Connect             bool     `json:"connect,omitempty"`

	Ports     []portOutput      `json:"ports,omitempty"`
	Published []publishedOutput `json:"published,omitempty"`
}

type stepOutput struct {
	Name         string  `json:"name"`
	State        string  `json:"state"`
	Detail       string  `json:"detail,omitempty"`
	Undo         bool    `json:"undo,omitempty"`
	Milliseconds float64 `json:"milliseconds"`
}

func (a *app) statusCommand() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:               "status",
		Short:             "Show the sessions of this machine",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := statusOutput{Sessions: []sessionOutput{}}
			c, err := a.dialSessions(cmd.Context())
			switch {
			case errors.Is(err, errNoDaemon):
			case err != nil:
				return err
			default:
				defer closeQuietly(c)
				reply, err := c.Status(cmd.Context(), &api.StatusRequest{})
				if err != nil {
					return errors.New(api.Text(err))
				}
				out = statusOf(reply)
			}
			return output.write(a.out, out, func() error { return a.printStatus(out) })
		},
	}
	output.add(cmd)
	return cmd
}

func statusOf(reply *api.StatusReply) statusOutput {
	out := statusOutput{
		Daemon:   &daemonOutput{PID: reply.GetPid(), Version: reply.GetVersion()},
		Sessions: []sessionOutput{},
	}
	for _, s := range reply.GetSessions() {
		so := sessionOutput{
			ID: s.GetId(), Target: s.GetTarget(), Namespace: s.GetNamespace(), Context: s.GetContext(),
			State: s.GetState(), Since: s.GetSince().AsTime(), PID: s.GetPid(), Command: s.GetCommand(),
			Transport: s.GetTransport(), AgentPod: s.GetAgentPod(), Problem: s.GetProblem(), Steps: []stepOutput{},
		}
		so.LatencyMilliseconds = float64(s.GetRoundTripMicroseconds()) / 1000
		so.BytesIn, so.BytesOut, so.DNSQueries = s.GetBytesIn(), s.GetBytesOut(), s.GetDnsQueries()
		so.HostChanges, so.Connect = append([]string{}, s.GetHostChanges()...), s.GetConnects()
		so.addPorts(s)
		for _, st := range s.GetSteps() {
			so.Steps = append(so.Steps, stepOutput{
				Name: st.GetName(), State: strings.ToLower(st.GetState().String()), Detail: st.GetDetail(),
				Undo: st.GetUndo(), Milliseconds: float64(st.GetMicroseconds()) / 1000,
			})
		}
		out.Sessions = append(out.Sessions, so)
	}
	return out
}

func (a *app) printStatus(out statusOutput) error {
	if out.Daemon == nil {
		fmt.Fprintln(a.out, "The daemon is not running: there are no sessions.")
		return nil
	}
	fmt.Fprintf(a.out, "daemon %s, pid %d\n", out.Daemon.Version, out.Daemon.PID)
	if len(out.Sessions) == 0 {
		fmt.Fprintln(a.out, "There are no sessions.")
		return nil
	}
	table := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "SESSION\tTARGET\tNAMESPACE\tCONTEXT\tSTATE\tSINCE\tPID\tTRANSPORT\tLATENCY\tIN\tOUT\tDNS\tCOMMAND")
	for _, s := range out.Sessions {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.ID, s.Target, dash(s.Namespace), dash(s.Context),
			s.State, s.Since.Local().Format("15:04:05"), dash(pidText(s.PID)), dash(s.Transport),
			latencyText(s.LatencyMilliseconds), sizeText(s.BytesIn), sizeText(s.BytesOut), s.DNSQueries,
			dash(strings.Join(s.Command, " ")))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, s := range out.Sessions {
		if s.Connect {
			fmt.Fprintln(a.out)
			for _, change := range s.HostChanges {
				fmt.Fprintf(a.out, "%s: %s\n", s.ID, change)
			}
		}
		if lines := s.portLines(); lines != "" {
			fmt.Fprintln(a.out, lines)
		}
		if s.Problem != "" {
			fmt.Fprintf(a.out, "\n%s: %s\n", s.ID, s.Problem)
		}
	}
	return nil
}

// latencyText is a round trip for people.
func latencyText(milliseconds float64) string {
	switch {
	case milliseconds == 0:
		return "-"
	case milliseconds < 10:
		return fmt.Sprintf("%.1fms", milliseconds)
	}
	return fmt.Sprintf("%.0fms", milliseconds)
}

// sizeText is a number of bytes for people.
func sizeText(bytes uint64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%dB", bytes)
	}
	size, units := float64(bytes), "KMGTPE"
	for size >= 1024 && units != "" {
		size /= 1024
		if size < 1024 || len(units) == 1 {
			break
		}
		units = units[1:]
	}
	if size < 10 {
		return fmt.Sprintf("%.1f%ciB", size, units[0])
	}
	return fmt.Sprintf("%.0f%ciB", size, units[0])
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func pidText(pid int64) string {
	if pid == 0 {
		return ""
	}
	return fmt.Sprint(pid)
}
