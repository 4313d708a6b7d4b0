package main

import (
	"strings"
	"testing"
)

// TestJoinWatch: --watch's value may be left away, so only wildcards make the next word one.
func TestJoinWatch(t *testing.T) {
	for line, want := range map[string]string{
		"swap service-a --watch":                      "swap service-a --watch",
		"swap --watch service-a":                      "swap --watch service-a",
		"swap a --watch *.go --watch web/**":          "swap a --watch=*.go --watch=web/**",
		"swap a --watch=*.go":                         "swap a --watch=*.go",
		"swap a --watch --debug":                      "swap a --watch --debug",
		"swap a -- sh --watch *.go":                   "swap a -- sh --watch *.go",
		"swap --watch --deployment a --watch [ab].go": "swap --watch --deployment a --watch=[ab].go",
	} {
		if got := strings.Join(joinWatch(strings.Fields(line)), " "); got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}
