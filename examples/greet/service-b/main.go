// Command service-b answers POST /api/serviceB on port 5100.
package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/teleswap/teleswap/examples/greet/internal/greet"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("service-b", "error", err)
		os.Exit(1)
	}
}

func run(logger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", ":5100")
	if err != nil {
		return err
	}
	return greet.Serve(ctx, l, greet.ServiceB(), logger)
}
