package main

import (
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/report"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name    string
		args    string
		check   func(options) bool
		wantErr string
	}{
		{"nothing", "", func(o options) bool {
			return o.rounds == 5 && o.swaps == 5 && o.duration == 2*time.Second && o.burst == 1000 &&
				slices.Equal(o.paths, []string{"limit", "port-forward", "outbound", "inbound"}) && len(o.transports) == 0
		}, ""},
		{"quick", "-quick", func(o options) bool { return o.rounds == 1 && o.duration == 200*time.Millisecond }, ""},
		{"quick, but not in all", "-quick -swaps 0", func(o options) bool { return o.rounds == 1 && o.swaps == 0 }, ""},
		{"lists", "-paths limit,inbound-service -transports pod-proxy,port-forward-spdy", func(o options) bool {
			return slices.Equal(o.paths, []string{"limit", "inbound-service"}) && slices.Equal(o.transports, []string{"pod-proxy", "port-forward-spdy"})
		}, ""},
		{"some metrics", "-metrics trip,up-8", func(o options) bool {
			steps := selected(plan(o.duration, o.burst), o.metrics)
			return len(steps) == 2 && steps[0].keys[0] == "up-8" && steps[1].keys[0] == "trip"
		}, ""},
		{"unknown metric", "-metrics trip-p99", nil, `unknown metric "trip-p99"`},
		{"no swaps", "-swaps 0", func(o options) bool { return o.swaps == 0 }, ""},
		{"unknown way", "-paths limit,sideways", nil, `unknown way "sideways"`},
		{"unknown format", "-o yaml", nil, `unknown format "yaml"`},
		{"no rounds", "-rounds 0", nil, "must be positive"},
		{"argument", "now", nil, `unexpected argument "now"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parse(strings.Fields(tc.args), io.Discard)
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Fatalf("got error %v, want %q", err, tc.wantErr)
			}
			if err == nil && !tc.check(got) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestOfDeadProcess(t *testing.T) {
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	dead, live := strconv.Itoa(ended.Process.Pid), strconv.Itoa(os.Getpid())
	for _, tc := range []struct {
		name string
		want bool
	}{
		{"bench-" + dead, true},
		{"bench-" + dead + "-3046462405", true},
		{"bench-" + live, false},
		{"bench-" + live + "-1", false},
		{"other-" + dead, false},
		{"bench-", false},
		{"bench-x", false},
		{"bench-../1", false},
	} {
		if got := ofDeadProcess(tc.name, "bench-"); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestIncomplete(t *testing.T) {
	ok := &report.Report{Ways: []report.Way{{Name: "limit", Samples: map[string][]report.Sample{"trip": {{Value: 1}}}}}, Swaps: []report.Swap{{}}}
	if err := incomplete(ok); err != nil {
		t.Errorf("got %v for a complete one", err)
	}
	bad := &report.Report{
		Ways:  []report.Way{{Name: "limit", Samples: map[string][]report.Sample{"trip": {{Error: "refused"}}}}},
		Swaps: []report.Swap{{Error: "no agent"}},
	}
	if err := incomplete(bad); err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "no agent") {
		t.Errorf("got %v, want both troubles", err)
	}
}
