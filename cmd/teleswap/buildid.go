package main

import (
	"debug/elf"
	"os"
	"strings"
)

// buildID tells builds of one version apart, so that a developer's new build does not
// speak to the daemon of the last one: the Go build id of this very file. Empty where
// the format is another.
func buildID() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	f, err := elf.Open(exe)
	if err != nil {
		return ""
	}
	defer closeQuietly(f)
	note := f.Section(".note.go.buildid")
	if note == nil {
		return ""
	}
	data, err := note.Data()
	if err != nil || len(data) < 16 {
		return ""
	}
	return strings.TrimRight(string(data[16:]), "\x00") // after sizes, type and "Go\0\0"
}
