package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/docker"
)

// TestKillIsBounded: a Docker that hangs does not keep the end of a swap from going on.
func TestKillIsBounded(t *testing.T) {
	hangs := filepath.Join(t.TempDir(), "docker")
	if err := os.WriteFile(hangs, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	c := &Container{spec: ContainerSpec{Client: &docker.Client{Path: hangs}}}
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		c.kill("web")
	}()
	late := time.NewTimer(20 * keepersWord)
	defer late.Stop()
	select {
	case <-killed:
	case <-late.C:
		t.Error("it waits for Docker")
	}
}
