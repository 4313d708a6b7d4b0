package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon"
)

// daemonCommand runs the daemon. Commands start it; nobody types it.
func (a *app) daemonCommand() *cobra.Command {
	var reportFD int
	cmd := &cobra.Command{
		Use:    "daemon",
		Short:  "Run the background process in the foreground",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runDaemon(cmd.Context(), reportFD)
		},
	}
	cmd.Flags().IntVar(&reportFD, "report-fd", 0, "descriptor to which readiness is written")
	return cmd
}

func (a *app) runDaemon(ctx context.Context, reportFD int) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	closeInherited(reportFD)
	report := io.WriteCloser(discard{})
	if reportFD > 0 {
		report = reportFile(reportFD)
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: logLevel(os.Getenv("TELESWAP_LOG"))}))
	err := daemon.Run(ctx, daemon.Config{
		Paths: a.paths, StateDir: a.state, Version: version, Build: buildID(),
		User: userName(), Host: hostName(), Logger: log, Transport: os.Getenv("TELESWAP_TRANSPORT"),
		AloneFor: aloneFor(os.Getenv("TELESWAP_ALONE_FOR"), log),
		Say:      func(line string) { fmt.Fprintln(report, saySaying+strings.ReplaceAll(line, "\n", "; ")) },
		Ready: func() {
			fmt.Fprintln(report, sayReady)
			closeQuietly(report)
		},
	})
	if err != nil {
		fmt.Fprintln(report, sayFailed+strings.ReplaceAll(err.Error(), "\n", "\t"))
	}
	return err
}

// discard stands in for the pipe where nobody waits.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

func logLevel(name string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo
	}
	return l
}

// aloneFor reads how long the agents of connections stay without this machine; 0: as long as they do anyway.
func aloneFor(text string, log *slog.Logger) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		log.Warn("TELESWAP_ALONE_FOR is no duration of a second or more, and not heeded", "value", text)
		return 0
	}
	return d
}

// userName and hostName are what others read in a mark.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	for _, name := range []string{"USER", "LOGNAME"} {
		if u := os.Getenv(name); u != "" {
			return u // this user is in no book of the machine's
		}
	}
	return fmt.Sprintf("uid-%d", os.Getuid())
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown-host"
	}
	return name
}
