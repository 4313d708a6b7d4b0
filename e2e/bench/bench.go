package main

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/report"
	"github.com/teleswap/teleswap/e2e/bench/scene"
)

// The ways by which -paths selects. The last two go by the Service's virtual
// address instead of the pod's.
const (
	pathLimit           = "limit"
	pathForward         = "port-forward"
	pathOutbound        = "outbound"
	pathInbound         = "inbound"
	pathOutboundService = "outbound-service"
	pathInboundService  = "inbound-service"
)

func allPaths() []string {
	return []string{pathLimit, pathForward, pathOutbound, pathInbound, pathOutboundService, pathInboundService}
}

// cleanups is what has to be undone, the last first.
type cleanups struct {
	logger *slog.Logger
	list   []func(context.Context) error
}

func (c *cleanups) add(undo func(context.Context) error) { c.list = append(c.list, undo) }

// run goes on when ctx has ended, and tells failures.
func (c *cleanups) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	defer cancel()
	for _, undo := range slices.Backward(c.list) {
		if err := undo(ctx); err != nil {
			c.logger.Warn("clean up", "err", err)
		}
	}
}

// bench sets up, measures and takes down.
func bench(ctx context.Context, o options, stderr io.Writer, logger *slog.Logger) (*report.Report, error) {
	undo := &cleanups{logger: logger}
	defer undo.run(ctx)
	config, err := openLab(ctx, o.lab, undo, stderr, logger)
	if err != nil {
		return nil, err
	}
	config.Transports = o.transports
	if o.lab.kubeconfig == "" {
		sweep(ctx, config, logger)
	}
	s, err := scene.New(ctx, config)
	undo.add(s.Close)
	if err != nil {
		return nil, err
	}
	b := &stage{options: o, scene: s, undo: undo, logger: logger}
	b.report = &report.Report{Rounds: o.rounds, Duration: o.duration.String(), Machine: facts(ctx, s)}
	if b.node, err = b.peer(ctx, s.Node); err != nil {
		return nil, err
	}
	if o.swaps > 0 {
		if err := b.timeSwaps(ctx); err != nil {
			return nil, err
		}
	}
	if o.work > 0 {
		root, err := repository()
		if err != nil {
			return nil, err
		}
		if b.report.Work, err = s.TimeWork(ctx, root, o.work); err != nil {
			return nil, err
		}
	}
	if o.files > 0 {
		if b.report.Files, err = s.TimeFiles(ctx, o.files); err != nil {
			return nil, err
		}
	}
	ways, err := b.ways(ctx)
	if err != nil {
		return nil, err
	}
	logger.Info("measuring", "ways", len(ways), "rounds", o.rounds)
	b.report.Ways, err = measure(ctx, ways, selected(plan(o.duration, o.burst), o.metrics), o.rounds, logger)
	b.report.Machine = append(b.report.Machine, b.found...)
	b.report.Machine = append(b.report.Machine, report.Fact{Name: "load average afterwards", Value: loadAverage()})
	return b.report, err
}
