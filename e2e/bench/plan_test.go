package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/load"
	"github.com/teleswap/teleswap/e2e/bench/remote"
	"github.com/teleswap/teleswap/e2e/bench/report"
)

// recorder answers every request, and tells a shared list who was asked for what.
type recorder struct {
	name string
	seen *[]string
	fail remote.Kind
	lose int // connections of a burst
}

func (r *recorder) Do(_ context.Context, request remote.Request) (remote.Answer, error) {
	*r.seen = append(*r.seen, r.name+" "+string(request.Kind))
	if request.Kind == r.fail {
		return remote.Answer{}, errors.New("broken")
	}
	return remote.Answer{
		Bulk:    &load.Bulk{Bytes: 2 << 20, Elapsed: time.Second},
		Latency: &load.Latency{Count: 1, P50: 5 * time.Microsecond, P99: 9 * time.Microsecond},
		Burst: &load.Burst{
			Wanted: request.Count, Opened: request.Count, Alive: request.Count - r.lose,
			Elapsed: 3 * time.Millisecond, FirstError: "none",
		},
	}, nil
}

func TestPlanFillsEveryMetric(t *testing.T) {
	var keys []string
	for _, step := range plan(time.Second, 10) {
		keys = append(keys, step.keys...)
	}
	var want []string
	for _, m := range report.Metrics() {
		want = append(want, m.Key)
	}
	if !slices.Equal(keys, want) {
		t.Errorf("got %v, want %v", keys, want)
	}
}

func TestMeasureInterleaves(t *testing.T) {
	var seen []string
	ways := []*way{
		{name: "out", asker: &recorder{name: "out", seen: &seen}},
		{name: "in", asker: &recorder{name: "in", seen: &seen}, inbound: true},
	}
	results, err := measure(t.Context(), ways, plan(time.Second, 10), 2, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	// Seven measurements a round: the second round begins with the other way.
	if want := []string{"out down", "in up", "in down", "out up"}; !slices.Equal(seen[:4], want) {
		t.Errorf("first were %v, want %v", seen[:4], want)
	}
	if len(seen) != 2*2*7 || seen[14] != "in up" {
		t.Errorf("second round begins with %q of %d", seen[14], len(seen))
	}
	for _, result := range results {
		for _, m := range report.Metrics() {
			if got := result.Summary(m.Key); got.Count != 2 {
				t.Errorf("%s: %s has %d samples, want 2", result.Name, m.Key, got.Count)
			}
		}
		if got := result.Summary("up-8").Median; got != 2 {
			t.Errorf("%s: %v MiB/s, want 2", result.Name, got)
		}
		if got := result.Summary("burst-time").Median; got != 3 {
			t.Errorf("%s: %v ms, want 3", result.Name, got)
		}
	}
}

func TestMeasureGoesOnAfterFailures(t *testing.T) {
	var seen []string
	repairs := 0
	ways := []*way{{
		name: "out", asker: &recorder{name: "out", seen: &seen, fail: remote.Connect, lose: 4},
		repair: func(context.Context, *way) error { repairs++; return nil },
	}}
	results, err := measure(t.Context(), ways, plan(time.Second, 10), 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if failures := results[0].Failures("connect"); len(failures) != 1 || failures[0].Error != "broken" {
		t.Errorf("connect: got %+v", failures)
	}
	if got := results[0].Summary("burst").Median; got != 6 || !strings.Contains(results[0].Note, "6 were still alive") {
		t.Errorf("burst: got %v, note %q", got, results[0].Note)
	}
	if repairs != 2 {
		t.Errorf("repaired %d times, want after each of the two", repairs)
	}
}

func TestMeasureEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var seen []string
	_, err := measure(ctx, []*way{{name: "out", asker: &recorder{name: "out", seen: &seen}}}, plan(time.Second, 1), 1000, slog.New(slog.DiscardHandler))
	if !errors.Is(err, context.Canceled) || len(seen) > 1 {
		t.Errorf("got error %v after %d measurements", err, len(seen))
	}
}
