package main

import (
	"math"
	"testing"
)

func TestStatusTexts(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536: "1.5KiB", 10240: "10KiB", 1 << 20: "1.0MiB", 5 << 30: "5.0GiB", 1 << 60: "1.0EiB", math.MaxUint64: "16EiB",
	} {
		if got := sizeText(bytes); got != want {
			t.Errorf("%d bytes: %s, want %s", bytes, got, want)
		}
	}
	for ms, want := range map[float64]string{0: "-", 0.31: "0.3ms", 9.94: "9.9ms", 12.4: "12ms"} {
		if got := latencyText(ms); got != want {
			t.Errorf("%g ms: %s, want %s", ms, got, want)
		}
	}
}
