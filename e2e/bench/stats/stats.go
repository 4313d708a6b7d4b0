// Package stats sums up small samples: medians, percentiles and spreads.
package stats

import (
	"cmp"
	"math"
	"slices"
)

// Summary describes a sample. The zero Summary is that of an empty sample.
type Summary struct {
	Count            int
	Median, Min, Max float64
}

// Summarise leaves values as they are. The median of an even number of values
// is the mean of the two in the middle.
func Summarise(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Summary{
		Count:  n,
		Median: (sorted[(n-1)/2] + sorted[n/2]) / 2,
		Min:    sorted[0],
		Max:    sorted[n-1],
	}
}

// Percentile returns the smallest value that at least p percent of the values
// do not exceed (nearest rank), and zero for no values. p beyond 0…100 counts
// as its nearer end. It leaves values as they are.
func Percentile[T cmp.Ordered](values []T, p float64) T {
	if len(values) == 0 {
		var none T
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
