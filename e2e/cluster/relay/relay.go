//go:build linux

// Package relay carries TCP connections from a listener in one network
// namespace to an address in another.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// Relay accepts on Listener and dials To for each connection.
type Relay struct {
	Listener net.Listener
	To       string // host:port
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Logger   *slog.Logger
}

// Run serves until ctx ends or the listener fails, and waits for the
// connections that are open then, which it closes.
func (r *Relay) Run(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = r.Listener.Close() })
	defer stop()
	for {
		in, err := r.Listener.Accept()
		if err != nil {
			if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("relay to %s: %w", r.To, err)
		}
		conns.Go(func() { r.serve(ctx, in) })
	}
}

// serve carries one connection, and ends when both directions have.
func (r *Relay) serve(ctx context.Context, in net.Conn) {
	defer func() { _ = in.Close() }()
	out, err := r.Dial(ctx, "tcp", r.To)
	if err != nil {
		r.Logger.Debug("relay", "to", r.To, "error", err)
		return
	}
	defer func() { _ = out.Close() }()
	stop := context.AfterFunc(ctx, func() {
		_ = in.Close()
		_ = out.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { copyHalf(out, in) })
	both.Go(func() { copyHalf(in, out) })
	both.Wait()
}

// copyHalf carries one direction and then says its end to dst; the other
// direction may go on.
func copyHalf(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		// A direction that failed will not be told by a half-close.
		_ = dst.Close()
		_ = src.Close()
		return
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the other end has gone: its own direction says so
	}
}
