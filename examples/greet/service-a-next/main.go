// Command service-a-next is service-a as its developer has it on the laptop: the
// answer has the time, too.
package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/examples/greet/internal/greet"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("service-a-next", "error", err)
		os.Exit(1)
	}
}

func run(logger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	a, err := greet.ServiceAFromEnv(os.Getenv, logger)
	if err != nil {
		return err
	}
	a.Now = time.Now
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	return greet.Serve(ctx, l, a.Handler(), logger)
}
