package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestExecLimits asks the kernel itself.
func TestExecLimits(t *testing.T) {
	run := func(env []string) error {
		cmd := exec.Command("/bin/true")
		cmd.Env = env
		return cmd.Run()
	}
	long := "L=" + strings.Repeat("x", longestVariable-2)
	if err := run([]string{long}); err != nil {
		t.Errorf("a variable of %d bytes: %v", len(long), err)
	}
	if err := run([]string{long + "x"}); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("a variable of %d bytes: %v, want E2BIG", len(long)+1, err)
	}
	const pointer = 8
	fill := func(size int) (env []string) {
		for size > 0 {
			n := min(size, 100<<10)
			size -= n
			name := fmt.Sprintf("V%03d=", len(env)) // exec.Cmd keeps one of each name
			env = append(env, name+strings.Repeat("x", max(0, n-len(name)-1-pointer)))
		}
		return env
	}
	room := allVariables()
	if err := run(fill(room - len("/bin/true") - 1 - pointer)); err != nil {
		t.Errorf("%d bytes: %v", room, err)
	}
	if err := run(fill(room + room/2)); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("%d bytes: %v, want E2BIG", room+2*ownShare, err)
	}
}
