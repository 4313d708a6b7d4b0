package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/teleswap/teleswap/e2e/bench/stats"
)

// Names of the ways that others are compared with.
const (
	Limit       = "limit"
	PortForward = "kubectl port-forward"
)

// Targets are what ways of ours must reach. Ratios are to PortForward.
type Targets struct {
	BulkAtLeast float64 // times
	TripAtMost  float64 // times
	// SwapAtMost is in milliseconds. It is an absolute time, and machines
	// differ: missing it is fatal only on request.
	SwapAtMost float64
	SwapFatal  bool
}

// Verdict is one target and whether it was reached.
type Verdict struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Target float64 `json:"target"`
	OK     bool    `json:"ok"`
	// Fatal says that the bench as a whole fails without OK.
	Fatal bool   `json:"fatal"`
	Text  string `json:"text"`
}

// Judge fills in the verdicts. A way of ours is any that is not one of those
// compared with. What could not be measured misses its target.
func (r *Report) Judge(targets Targets) {
	r.Verdicts = nil
	base, ok := r.Way(PortForward)
	for _, w := range r.Ways {
		if !ok || w.Name == Limit || w.Name == PortForward {
			continue
		}
		for _, m := range Metrics() {
			if !r.tried(m) {
				continue
			}
			switch m.Kind {
			case Bulk:
				r.Verdicts = append(r.Verdicts, judgeRatio(w, base, m, "at least", targets.BulkAtLeast))
			case Trip:
				r.Verdicts = append(r.Verdicts, judgeRatio(w, base, m, "at most", targets.TripAtMost))
			case Connect, Count, Time:
			}
		}
	}
	if len(r.Swaps) > 0 {
		r.Verdicts = append(r.Verdicts, r.judgeSwap(targets))
	}
	for _, w := range r.Work {
		r.Verdicts = append(r.Verdicts, w.verdict("outside"))
	}
	for _, w := range r.Files {
		if w.AtMost > 0 || w.Error != "" {
			r.Verdicts = append(r.Verdicts, w.verdict("kubectl exec"))
		}
	}
}

// tried says whether a metric was part of the run.
func (r *Report) tried(m Metric) bool {
	return slices.ContainsFunc(r.Ways, func(w Way) bool { return len(w.Samples[m.Key]) > 0 })
}

func judgeRatio(w, base Way, m Metric, bound string, target float64) Verdict {
	v := Verdict{Name: w.Name + ": " + m.Title, Target: target, Fatal: true}
	ratio, ok := ratio(w, base, m.Key)
	if !ok {
		v.Text = fmt.Sprintf("%s: not measured (target: %s %.2fx of %s)", v.Name, bound, target, base.Name)
		return v
	}
	v.Value = ratio
	if bound == "at least" {
		v.OK = ratio >= target
	} else {
		v.OK = ratio <= target
	}
	v.Text = fmt.Sprintf("%s: %.2fx of %s (target: %s %.2fx)", v.Name, ratio, base.Name, bound, target)
	return v
}

func (r *Report) judgeSwap(targets Targets) Verdict {
	v := Verdict{Name: "swap typed to first answer", Target: targets.SwapAtMost, Fatal: targets.SwapFatal}
	answered := r.swapSummary(func(s Swap) float64 { return s.Answered })
	if answered.Count == 0 {
		v.Text = v.Name + ": not measured"
		return v
	}
	v.Value = answered.Median
	v.OK = answered.Median <= targets.SwapAtMost
	v.Text = fmt.Sprintf("%s: %.0f ms (target: at most %.0f ms)", v.Name, v.Value, v.Target)
	return v
}

// Failed says whether a fatal target was missed.
func (r *Report) Failed() bool {
	for _, v := range r.Verdicts {
		if v.Fatal && !v.OK {
			return true
		}
	}
	return false
}

// ratio is the median of the rounds' ratios. Within a round the two samples
// were taken one after the other, so what else the machine did weighs on both;
// the ratio of the medians would compare different minutes.
func ratio(w, base Way, metric string) (float64, bool) {
	theirs := map[int]float64{}
	for _, s := range base.Samples[metric] {
		if s.Error == "" && s.Value != 0 {
			theirs[s.Round] = s.Value
		}
	}
	var ratios []float64
	for _, s := range w.Samples[metric] {
		if b, ok := theirs[s.Round]; ok && s.Error == "" {
			ratios = append(ratios, s.Value/b)
		}
	}
	summary := stats.Summarise(ratios)
	return summary.Median, summary.Count > 0
}

func (r *Report) swapSummary(value func(Swap) float64) stats.Summary {
	var values []float64
	for _, s := range r.Swaps {
		if s.Error == "" {
			values = append(values, value(s))
		}
	}
	return stats.Summarise(values)
}

// line is how a verdict is printed.
func (v Verdict) line() string {
	var b strings.Builder
	switch {
	case v.OK:
		b.WriteString("ok   ")
	case v.Fatal:
		b.WriteString("MISS ")
	default:
		b.WriteString("miss (not fatal) ")
	}
	b.WriteString(v.Text)
	return b.String()
}
