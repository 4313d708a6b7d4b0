package kube

import (
	"slices"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"service-a", "service-b", "frontend", "db", "checkout"}
	for _, tc := range []struct {
		name string
		want []string
	}{
		{"service-a", []string{"service-a", "service-b"}},
		{"servcie-a", []string{"service-a", "service-b"}},
		{"front", []string{"frontend"}},
		{"the-checkout", []string{"checkout"}},
		{"bd", []string{"db"}},
		{"Frontend", []string{"frontend"}},
		{"something-else", nil},
	} {
		if got := nearest(tc.name, names); !slices.Equal(got, tc.want) {
			t.Errorf("nearest(%q) = %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1}, {"abc", "xabc", 1}, {"kitten", "sitting", 3}, {"größe", "grösse", 2},
	} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if got := distance(tc.b, tc.a); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.b, tc.a, got, tc.want)
		}
	}
}
