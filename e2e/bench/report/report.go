// Package report holds what the bench measured, judges it against targets and
// prints it. It measures nothing itself.
package report

import (
	"github.com/teleswap/teleswap/e2e/bench/stats"
)

// Metric is one thing that is measured of every way.
type Metric struct {
	Key, Title, Unit string
	// Kind decides which target holds for it.
	Kind Kind
}

// Kind groups metrics that share a target.
type Kind int

// The kinds of metric. Of bulk more is better, of the others less; a count
// is complete or not.
const (
	Bulk Kind = iota
	Trip
	Connect
	Count
	Time
)

// Metrics returns what is measured, in the order of the table. Directions are
// the laptop's: down is towards it.
func Metrics() []Metric {
	return []Metric{
		{"down-1", "down, 1 stream", "MiB/s", Bulk},
		{"up-1", "up, 1 stream", "MiB/s", Bulk},
		{"down-8", "down, 8 streams", "MiB/s", Bulk},
		{"up-8", "up, 8 streams", "MiB/s", Bulk},
		{"trip", "1-byte round trip, p50", "µs", Trip},
		{"trip-p99", "1-byte round trip, p99", "µs", Time},
		{"connect", "connect + echo, p50", "µs", Connect},
		{"burst", "connections open at once", "alive", Count},
		{"burst-time", "… until all had an answer", "ms", Time},
	}
}

// Sample is one measurement. With an Error the Value means nothing.
type Sample struct {
	Round int     `json:"round"`
	Value float64 `json:"value"`
	Error string  `json:"error,omitempty"`
}

// Way is one of the compared ways, with its samples by the metric's key.
type Way struct {
	Name    string              `json:"name"`
	Note    string              `json:"note,omitempty"`
	Samples map[string][]Sample `json:"samples"`
}

// Summary sums up the samples that are no errors.
func (w Way) Summary(metric string) stats.Summary {
	var values []float64
	for _, s := range w.Samples[metric] {
		if s.Error == "" {
			values = append(values, s.Value)
		}
	}
	return stats.Summarise(values)
}

// Failures returns the distinct errors of a metric with their numbers, in the
// order of their first appearance.
func (w Way) Failures(metric string) []Failure {
	var failures []Failure
	index := map[string]int{}
	for _, s := range w.Samples[metric] {
		if s.Error == "" {
			continue
		}
		i, ok := index[s.Error]
		if !ok {
			i = len(failures)
			index[s.Error] = i
			failures = append(failures, Failure{Error: s.Error})
		}
		failures[i].Times++
	}
	return failures
}

// Failure is an error and how often it came.
type Failure struct {
	Error string
	Times int
}

// Swap is one timed swap and restore. All times are in milliseconds.
type Swap struct {
	// Steps are the product's own account of the swap, Undos that of its end.
	Steps []Step `json:"steps"`
	Undos []Step `json:"undos"`
	// Started is from the command typed to the local process running,
	// Swapped to the command saying that it is done, Answered to the first
	// request, sent by a client in the cluster, that the local process answered.
	Started  float64 `json:"started"`
	Swapped  float64 `json:"swapped"`
	Answered float64 `json:"answered"`
	// Back is from the local process's end to the first answer of the
	// original, Restored to the end of the command.
	Back     float64 `json:"back"`
	Restored float64 `json:"restored"`
	// Lost counts failed requests of the clients in both phases.
	Lost int `json:"lost"`
	// Losses are the first errors of those, each with its phase.
	Losses []string `json:"losses,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// Step is one of the steps that the product tells of.
type Step struct {
	Name         string  `json:"name"`
	Milliseconds float64 `json:"milliseconds"`
}

// Report is everything that one run of the bench found.
type Report struct {
	Machine  []Fact `json:"machine"`
	Rounds   int    `json:"rounds"`
	Duration string `json:"duration"`
	Ways     []Way  `json:"ways"`
	Swaps    []Swap `json:"swaps,omitempty"`
	Work     []Work `json:"work,omitempty"`
	// Files is work with the files of a volume; outside is by kubectl exec.
	Files    []Work    `json:"files,omitempty"`
	Verdicts []Verdict `json:"verdicts"`
}

// Fact is something of the machine or the versions that the numbers depend on.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Way returns the way of that name.
func (r *Report) Way(name string) (Way, bool) {
	for _, w := range r.Ways {
		if w.Name == name {
			return w, true
		}
	}
	return Way{}, false
}
