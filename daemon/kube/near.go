package kube

import (
	"cmp"
	"slices"
	"strings"
)

// nearest picks the names that somebody may have meant by name: few edits away, or
// one containing the other. At most three, the nearest first.
func nearest(name string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	limit := max(2, len(name)/3)
	var near []candidate
	for _, other := range names {
		far := distance(strings.ToLower(name), strings.ToLower(other))
		contains := len(name) >= 3 && (strings.Contains(other, name) || strings.Contains(name, other))
		if far <= limit || contains {
			near = append(near, candidate{other, far})
		}
	}
	slices.SortFunc(near, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.name, b.name))
	})
	out := make([]string, 0, 3)
	for _, c := range near[:min(3, len(near))] {
		out = append(out, c.name)
	}
	return out
}

// few returns the names if they are few enough to be listed in a message.
func few(names []string) []string {
	if len(names) > 8 {
		return nil
	}
	return names
}

// distance counts the edits from a to b: insert, delete, replace, or swap two
// neighbours (optimal string alignment).
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, previous, current := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(s); i++ {
		current[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(t)]
}
