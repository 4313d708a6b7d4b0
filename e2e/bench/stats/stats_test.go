package stats_test

import (
	"slices"
	"testing"

	"github.com/teleswap/teleswap/e2e/bench/stats"
)

func TestSummarise(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values []float64
		want   stats.Summary
	}{
		{"empty", nil, stats.Summary{}},
		{"one", []float64{7}, stats.Summary{Count: 1, Median: 7, Min: 7, Max: 7}},
		{"odd, unsorted", []float64{9, 1, 5}, stats.Summary{Count: 3, Median: 5, Min: 1, Max: 9}},
		{"even", []float64{4, 1, 2, 100}, stats.Summary{Count: 4, Median: 3, Min: 1, Max: 100}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := slices.Clone(tc.values)
			if got := stats.Summarise(tc.values); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if !slices.Equal(before, tc.values) {
				t.Errorf("values were changed to %v", tc.values)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[99-i] = i + 1
	}
	for _, tc := range []struct {
		name   string
		values []int
		p      float64
		want   int
	}{
		{"empty", nil, 50, 0},
		{"one", []int{3}, 99, 3},
		{"half of a hundred", hundred, 50, 50},
		{"99 of a hundred", hundred, 99, 99},
		{"lowest", hundred, 0, 1},
		{"highest", hundred, 100, 100},
		{"beyond", hundred, 400, 100},
		{"half of three", []int{30, 10, 20}, 50, 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := stats.Percentile(tc.values, tc.p); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
