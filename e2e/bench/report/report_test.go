package report_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/bench/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

func samples(values ...float64) []report.Sample {
	var list []report.Sample
	for i, v := range values {
		list = append(list, report.Sample{Round: i + 1, Value: v})
	}
	return list
}

// every has the same samples for each metric.
func every(values ...float64) map[string][]report.Sample {
	all := map[string][]report.Sample{}
	for _, m := range report.Metrics() {
		all[m.Key] = samples(values...)
	}
	return all
}

var targets = report.Targets{BulkAtLeast: 0.8, TripAtMost: 1.5, SwapAtMost: 3000}

func example() *report.Report {
	inbound := every(80, 85, 90)
	inbound["up-8"] = samples(10, 20, 30)
	inbound["trip"] = samples(200, 200, 200)
	inbound["connect"] = []report.Sample{{Round: 1, Error: "refused"}, {Round: 2, Value: 5}, {Round: 3, Error: "refused"}}
	return &report.Report{
		Machine:  []report.Fact{{Name: "processors", Value: "2"}},
		Rounds:   3,
		Duration: "2s",
		Ways: []report.Way{
			{Name: report.Limit, Samples: every(1000, 3000, 2000)},
			{Name: report.PortForward, Samples: every(100, 100, 100), Note: "restarted twice"},
			{Name: "inbound", Samples: inbound},
		},
		Swaps: []report.Swap{
			{Steps: []report.Step{{"resolve", 10}, {"mark", 5}}, Undos: []report.Step{{"mark", 20}}, Started: 100, Answered: 900, Swapped: 1000, Back: 50, Restored: 60, Lost: 1, Losses: []string{"at its end (1 of 80): refused"}},
			{Steps: []report.Step{{"resolve", 12}, {"mark", 7}}, Started: 110, Answered: 1100, Swapped: 1200, Back: 55, Restored: 65},
			{Error: "no such deployment"},
		},
	}
}

func TestMarkdown(t *testing.T) {
	r := example()
	r.Judge(targets)
	var got strings.Builder
	if err := r.Markdown(&got); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.md")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestJSON(t *testing.T) {
	r := example()
	r.Judge(targets)
	var out strings.Builder
	if err := r.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var back report.Report
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil {
		t.Fatal(err)
	}
	if w, ok := back.Way("inbound"); !ok || w.Summary("up-8").Median != 20 || len(back.Verdicts) != len(r.Verdicts) {
		t.Errorf("read back: %+v", back)
	}
}

func TestJudge(t *testing.T) {
	ours := func(metric string, values ...float64) *report.Report {
		samples := map[string][]report.Sample{}
		for key, list := range every(100, 100, 100) {
			samples[key] = list
		}
		samples[metric] = nil
		for i, v := range values {
			samples[metric] = append(samples[metric], report.Sample{Round: i + 1, Value: v})
		}
		return &report.Report{Ways: []report.Way{
			{Name: report.Limit, Samples: every(1e6)},
			{Name: report.PortForward, Samples: every(100, 100, 100)},
			{Name: "outbound", Samples: samples},
		}}
	}
	swap := func(answered float64) *report.Report {
		return &report.Report{Swaps: []report.Swap{{Answered: answered}}}
	}
	for _, tc := range []struct {
		name   string
		report *report.Report
		fatal  bool // SwapFatal
		missed string
		failed bool
	}{
		{name: "bulk just reached", report: ours("down-8", 80)},
		{name: "bulk missed", report: ours("down-8", 79), missed: "down, 8 streams", failed: true},
		{name: "bulk not measured", report: ours("up-1"), missed: "not measured", failed: true},
		{name: "median counts, not the worst", report: ours("up-1", 1, 99, 101)},
		{name: "a round's ratio counts", report: &report.Report{Ways: []report.Way{
			{Name: report.PortForward, Samples: map[string][]report.Sample{"up-1": samples(10, 100, 1000)}},
			// The medians' ratio is 0.1.
			{Name: "outbound", Samples: map[string][]report.Sample{"up-1": samples(9, 10, 900)}},
		}}},
		{name: "round trip just reached", report: ours("trip", 150)},
		{name: "round trip missed", report: ours("trip", 151), missed: "round trip, p50", failed: true},
		{name: "connect has no target", report: ours("connect", 1e6)},
		{name: "swap reached", report: swap(3000), fatal: true},
		{name: "swap missed, not fatal", report: swap(3001), missed: "3001 ms"},
		{name: "swap missed, fatal", report: swap(3001), fatal: true, missed: "3001 ms", failed: true},
		{name: "swap not measured", report: &report.Report{Swaps: []report.Swap{{Error: "no"}}}, fatal: true, missed: "not measured", failed: true},
		{name: "nothing to compare with", report: &report.Report{Ways: []report.Way{{Name: "outbound"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			targets := targets
			targets.SwapFatal = tc.fatal
			tc.report.Judge(targets)
			if got := tc.report.Failed(); got != tc.failed {
				t.Errorf("failed: got %v, want %v: %+v", got, tc.failed, tc.report.Verdicts)
			}
			var missed []string
			for _, v := range tc.report.Verdicts {
				if !v.OK {
					missed = append(missed, v.Text)
				}
			}
			if all := strings.Join(missed, "\n"); (all == "") != (tc.missed == "") || !strings.Contains(all, tc.missed) || len(missed) > 1 {
				t.Errorf("missed: got %q, want one with %q", missed, tc.missed)
			}
		})
	}
}
