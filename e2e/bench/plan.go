package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/load"
	"github.com/teleswap/teleswap/e2e/bench/remote"
	"github.com/teleswap/teleswap/e2e/bench/report"
)

// asker has measurements made; a remote.Probe is one.
type asker interface {
	Do(context.Context, remote.Request) (remote.Answer, error)
}

// way is one of the ways that are compared.
type way struct {
	name string
	// asker is at the end that dials.
	asker   asker
	address string
	// inbound says that the end that dials is in the cluster: what it receives
	// goes up, away from the laptop.
	inbound bool
	// repair, if not nil, is called after each failed measurement, and makes
	// the way fit for the next.
	repair func(context.Context, *way) error
	notes  []string
}

const (
	// mostConnects bounds the ports that one measurement uses up for a minute.
	mostConnects  = 1500
	burstPatience = 30 * time.Second
)

// measurement is one request whose answer fills one or more metrics.
type measurement struct {
	keys    []string
	request func(w *way) remote.Request
	values  func(a remote.Answer) []float64
	// doubt, if not nil, tells what is wrong with an answer that still has values.
	doubt func(a remote.Answer) string
}

// plan is what is measured in each round. Its keys are those of report.Metrics.
func plan(duration time.Duration, burst int) []measurement {
	bulk := func(key string, up bool, streams int) measurement {
		return measurement{
			keys: []string{key},
			request: func(w *way) remote.Request {
				kind := remote.Down
				if up != w.inbound {
					kind = remote.Up
				}
				return remote.Request{Kind: kind, Count: streams, Duration: duration}
			},
			values: func(a remote.Answer) []float64 { return []float64{a.Bulk.Rate()} },
		}
	}
	return []measurement{
		bulk("down-1", false, 1), bulk("up-1", true, 1),
		bulk("down-8", false, 8), bulk("up-8", true, 8),
		{
			keys:    []string{"trip", "trip-p99"},
			request: func(*way) remote.Request { return remote.Request{Kind: remote.RoundTrip, Duration: duration} },
			values: func(a remote.Answer) []float64 {
				return []float64{microseconds(a.Latency.P50), microseconds(a.Latency.P99)}
			},
		},
		{
			keys: []string{"connect"},
			request: func(*way) remote.Request {
				return remote.Request{Kind: remote.Connect, Count: mostConnects, Duration: duration}
			},
			values: func(a remote.Answer) []float64 { return []float64{microseconds(a.Latency.P50)} },
		},
		{
			keys: []string{"burst", "burst-time"},
			request: func(*way) remote.Request {
				return remote.Request{Kind: remote.Burst, Count: burst, Duration: burstPatience}
			},
			values: func(a remote.Answer) []float64 {
				return []float64{float64(a.Burst.Alive), microseconds(a.Burst.Elapsed) / 1000}
			},
			doubt: func(a remote.Answer) string { return doubtBurst(*a.Burst) },
		},
	}
}

// selected leaves the measurements with these first keys; all, if there are
// no keys.
func selected(steps []measurement, keys []string) []measurement {
	if len(keys) == 0 {
		return steps
	}
	return slices.DeleteFunc(steps, func(m measurement) bool { return !slices.Contains(keys, m.keys[0]) })
}

// planKeys are the first keys of all measurements.
func planKeys() []string {
	var keys []string
	for _, step := range plan(0, 0) {
		keys = append(keys, step.keys[0])
	}
	return keys
}

func doubtBurst(b load.Burst) string {
	if b.Alive == b.Wanted {
		return ""
	}
	return fmt.Sprintf("%d connections at once: %d answered, %d were still alive; first error: %s",
		b.Wanted, b.Opened, b.Alive, b.FirstError)
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// measure runs the plan over all ways, round by round. Within a round each
// measurement is made of all ways before the next one, beginning with another
// way each time, so that whatever else the machine does falls on all alike.
// A failed measurement is a sample with an error; only the end of ctx ends the
// whole.
func measure(ctx context.Context, ways []*way, steps []measurement, rounds int, logger *slog.Logger) ([]report.Way, error) {
	results := make([]report.Way, len(ways))
	for i, w := range ways {
		results[i] = report.Way{Name: w.name, Samples: map[string][]report.Sample{}}
	}
	turn := 0
	for round := 1; round <= rounds; round++ {
		for _, step := range steps {
			for i := range ways {
				at := (i + turn) % len(ways)
				samples := measureOne(ctx, ways[at], step, logger.With("round", round, "of", step.keys[0]))
				if err := ctx.Err(); err != nil {
					return results, err
				}
				for j, sample := range samples {
					sample.Round = round
					all := results[at].Samples
					all[step.keys[j]] = append(all[step.keys[j]], sample)
				}
			}
			turn++
		}
		logger.Info("measured", "round", round, "of", rounds)
	}
	for i, w := range ways {
		for n, note := range w.notes {
			if n > 0 {
				results[i].Note += "; "
			}
			results[i].Note += note
		}
	}
	return results, nil
}

// measureOne returns a sample for each key of the step.
func measureOne(ctx context.Context, w *way, step measurement, logger *slog.Logger) []report.Sample {
	samples := make([]report.Sample, len(step.keys))
	request := step.request(w)
	request.Address = w.address
	// The probe's own limits are shorter: beyond this the probe itself hangs.
	limited, cancel := context.WithTimeout(ctx, request.Duration+4*burstPatience)
	defer cancel()
	answer, err := w.asker.Do(limited, request)
	trouble := ""
	if err != nil {
		trouble = err.Error()
		for i := range samples {
			samples[i].Error = trouble
		}
	} else {
		for i, value := range step.values(answer) {
			samples[i].Value = value
		}
		if step.doubt != nil {
			trouble = step.doubt(answer)
		}
	}
	if trouble == "" {
		logger.Debug("measured", "way", w.name, "value", samples[0].Value)
		return samples
	}
	if ctx.Err() != nil {
		return samples
	}
	logger.Warn("not well", "way", w.name, "trouble", trouble)
	if err == nil {
		w.notes = append(w.notes, trouble)
	}
	if w.repair != nil {
		if err := w.repair(ctx, w); err != nil {
			logger.Warn("cannot repair", "way", w.name, "err", err)
		}
	}
	return samples
}
