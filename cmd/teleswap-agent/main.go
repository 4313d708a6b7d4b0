// Command teleswap-agent stands in a pod in place of the container that is swapped.
// It takes flags only, so that its environment is the pod's and nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/teleswap/teleswap/agent"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	syscall.Umask(0) // what the laptop's processes create through us has their umask already
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "teleswap-agent:", err)
		return 2
	}
	if err := agent.Run(ctx, cfg); err != nil {
		fmt.Fprintln(stderr, "teleswap-agent:", err)
		return 1
	}
	return 0
}

func parse(args []string, stdout, stderr io.Writer) (agent.Config, error) {
	cfg := agent.Config{Version: version, TunnelPort: 15100}
	flags := flag.NewFlagSet("teleswap-agent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Func("tunnel-port", "`port` for the tunnel and the probes (default 15100)", func(text string) error {
		port, err := parsePort(text)
		cfg.TunnelPort = port
		return err
	})
	for _, f := range []struct {
		name, usage string
		ports       *[]uint16
	}{
		{"listen", "TCP `port` of the target; may be given often", &cfg.Listen},
		{"listen-udp", "UDP `port` of the target; may be given often", &cfg.ListenUDP},
		{"listen-loopback", "TCP `port` for the pod's other containers alone, at the loopback address; may be given often", &cfg.Loopback},
		{"listen-loopback-udp", "UDP `port` likewise; may be given often", &cfg.LoopbackUDP},
	} {
		flags.Func(f.name, f.usage, func(text string) error {
			port, err := parsePort(text)
			*f.ports = append(*f.ports, port)
			return err
		})
	}
	flags.StringVar(&cfg.KeysDir, "keys", "/run/teleswap/keys", "`folder` with the session's keys")
	flags.DurationVar(&cfg.Grace, "grace", agent.DefaultGrace, "how long to serve open connections after SIGTERM")
	flags.DurationVar(&cfg.AloneFor, "alone-for", 0, "end when no laptop was there for so long; 0: never")
	verbose := flags.Bool("verbose", false, "log more")
	if err := flags.Parse(args); err != nil {
		return agent.Config{}, err
	}
	if flags.NArg() > 0 {
		return agent.Config{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	cfg.Output = agent.NewOutput(stdout, stderr)
	cfg.Logger = slog.New(slog.NewTextHandler(cfg.Output, &slog.HandlerOptions{Level: level}))
	return cfg, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, errors.New("not a port between 1 and 65535")
	}
	return uint16(port), nil
}
