package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/report"
	"github.com/teleswap/teleswap/e2e/bench/scene"
)

// stage puts the ends of the ways in place.
type stage struct {
	options
	scene  *scene.Scene
	undo   *cleanups
	logger *slog.Logger
	node   *scene.Peer // in the cluster's network
	report *report.Report
	found  []report.Fact
}

// peer starts a probe that ends with the bench.
func (b *stage) peer(ctx context.Context, where place.Place) (*scene.Peer, error) {
	p, err := b.scene.StartProbe(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("start a probe in %v: %w", where, err)
	}
	b.undo.add(func(context.Context) error { return p.Close() })
	return p, nil
}

// timeSwaps swaps and restores the target again and again, each time with a
// daemon that starts anew. A swap that fails is a result with an error.
func (b *stage) timeSwaps(ctx context.Context) error {
	for i := range b.swaps {
		if err := b.scene.QuitDaemon(ctx, ""); err != nil {
			b.logger.Debug("no daemon to end", "err", err)
		}
		result, err := b.scene.TimeSwap(ctx, b.node)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			result.Error = err.Error()
			b.logger.Warn("swap failed", "number", i+1, "err", err)
		} else {
			b.logger.Info("swap timed", "number", i+1, "answeredMs", result.Answered, "restoredMs", result.Restored, "lost", result.Lost)
		}
		b.report.Swaps = append(b.report.Swaps, result)
	}
	return nil
}

// ways puts in place what the chosen paths need.
func (b *stage) ways(ctx context.Context) ([]*way, error) {
	pod, address, err := b.scene.ServerPod(ctx)
	if err != nil {
		return nil, err
	}
	var ways []*way
	if slices.Contains(b.paths, pathLimit) {
		ways = append(ways, &way{name: report.Limit, asker: b.node, address: address})
	}
	if slices.Contains(b.paths, pathForward) {
		w, err := b.forwardWay(ctx, pod)
		if err != nil {
			return nil, err
		}
		ways = append(ways, w)
	}
	for _, transport := range append([]string{""}, b.transports...) {
		more, err := b.swapWays(ctx, transport, address)
		if err != nil {
			return nil, err
		}
		ways = append(ways, more...)
	}
	if len(ways) == 0 {
		return nil, errors.New("no way to measure")
	}
	return ways, nil
}

// forwardWay is kubectl port-forward, which is started anew when it has ended.
func (b *stage) forwardWay(ctx context.Context, pod string) (*way, error) {
	laptop, err := b.peer(ctx, b.scene.Laptop)
	if err != nil {
		return nil, err
	}
	forward, err := b.scene.PortForward(ctx, pod)
	if err != nil {
		return nil, err
	}
	b.undo.add(func(context.Context) error { return forward.Close() })
	repair := func(ctx context.Context, w *way) error {
		if forward.Alive() {
			return nil
		}
		w.notes = append(w.notes, "it ended and was started anew, having said: "+forward.LastWords())
		again, err := b.scene.PortForward(ctx, pod)
		if err != nil {
			return err
		}
		forward, w.address = again, again.Address
		return nil
	}
	return &way{name: report.PortForward, asker: laptop, address: forward.Address, repair: repair}, nil
}

// swapWays are those through one swap. A transport by itself has only the
// plain two.
func (b *stage) swapWays(ctx context.Context, transport, server string) ([]*way, error) {
	paths := []string{pathOutbound, pathInbound}
	if transport == "" {
		paths = append(paths, pathOutboundService, pathInboundService)
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return !slices.Contains(b.paths, path) })
	if len(paths) == 0 {
		return nil, nil
	}
	swap, err := b.scene.Swap(ctx, transport)
	if err != nil {
		return nil, err
	}
	b.undo.add(func(ctx context.Context) error {
		return errors.Join(swap.Close(), b.scene.QuitDaemon(ctx, transport))
	})
	suffix := ""
	if transport != "" {
		suffix = " by " + transport
	}
	b.found = append(b.found, report.Fact{Name: "transport" + suffix, Value: swap.Transport})
	var ways []*way
	for _, path := range paths {
		w := &way{name: "teleswap " + path + suffix, asker: swap}
		switch path {
		case pathOutbound:
			w.address = server
		case pathOutboundService:
			w.address, err = b.scene.ServiceAddress(ctx, scene.Server)
		case pathInbound:
			w.asker, w.inbound = b.node, true
			w.address, err = b.scene.AgentAddress(ctx, swap)
		case pathInboundService:
			w.asker, w.inbound = b.node, true
			w.address, err = b.scene.ServiceAddress(ctx, scene.Target(transport))
		}
		if err != nil {
			return nil, err
		}
		ways = append(ways, w)
	}
	return ways, nil
}
