package runner

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// turn waits for the next one.
func (r *running) turn() Turn {
	r.t.Helper()
	select {
	case turn := <-r.Turns():
		return turn
	case <-time.After(15 * time.Second):
		r.t.Fatal("no turn within 15 s")
		return Turn{}
	}
}

func (r *running) restart(grace time.Duration) Turn {
	r.t.Helper()
	if err := r.Restart(grace); err != nil {
		r.t.Fatal(err)
	}
	return r.turn()
}

// ends has a signal end a sandbox in which nothing runs, and tells the exit status.
func (r *running) ends() Exit {
	r.t.Helper()
	if err := r.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	exit, err := r.Wait()
	if err != nil {
		r.t.Fatal(err)
	}
	return exit
}

func (l *lab) restartable(child ...string) *running {
	l.t.Helper()
	spec := l.spec(child...)
	spec.Restarts = true
	return l.start(spec)
}

// TestRestartEndsAll restarts a command that has left orphans in other sessions: all have ended before the next one
// starts, in the same sandbox.
func TestRestartEndsAll(t *testing.T) {
	r := newLab(t, nil).restartable("family", "stay")
	family := func() (pids []int) {
		for range 3 {
			if text, is := strings.CutPrefix(r.line(), "sleeping "); is {
				pid, err := strconv.Atoi(text)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
		}
		return append(pids, r.Pid())
	}
	netns := func() string {
		text, err := os.Readlink("/proc/" + strconv.Itoa(r.Pid()) + "/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	old, box := family(), netns()
	for range 2 {
		turn := r.restart(10 * time.Second)
		if turn.Pid == 0 || turn.Pid != r.Pid() || netns() != box {
			t.Fatalf("turn %+v, pid %d, sandbox %s; before %s", turn, r.Pid(), netns(), box)
		}
		for _, pid := range old {
			if err := syscall.Kill(pid, 0); err == nil {
				t.Errorf("process %d is there after the restart", pid)
			}
		}
		old = family()
	}
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if turn := r.turn(); turn.Exit == nil || turn.Exit.Signal != syscall.SIGTERM {
		t.Errorf("turn %+v", turn)
	}
	if exit := r.ends(); exit.Signal != syscall.SIGTERM {
		t.Errorf("exit %+v", exit)
	}
}

// TestRestartOfWhatEnded: a command that ends by itself waits for its restart; its last status is the sandbox's.
func TestRestartOfWhatEnded(t *testing.T) {
	r := newLab(t, nil).restartable("exit", "5")
	for range 3 {
		if turn := r.turn(); turn.Exit == nil || turn.Exit.Code != 5 {
			t.Fatalf("turn %+v", turn)
		}
		if turn := r.restart(time.Second); turn.Pid == 0 {
			t.Fatalf("turn %+v", turn)
		}
	}
	r.turn()
	if exit := r.ends(); exit != (Exit{Code: 5}) {
		t.Errorf("exit %+v", exit)
	}
}

func TestRestartInsists(t *testing.T) {
	r := newLab(t, nil).restartable("stubborn")
	r.line()
	if turn := r.restart(50 * time.Millisecond); turn.Pid == 0 {
		t.Fatalf("turn %+v", turn)
	}
	r.line()
	// A signal that ends the command calls its restart off.
	if err := r.Restart(time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := r.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if turn := r.turn(); turn.Exit == nil || turn.Exit.Signal != syscall.SIGKILL {
		t.Fatalf("turn %+v", turn)
	}
	if exit := r.ends(); exit.Code != 128+int(syscall.SIGKILL) {
		t.Errorf("exit %+v", exit)
	}
}

// TestRestartFails: a command that is not there any more is told, and may come back.
func TestRestartFails(t *testing.T) {
	l := newLab(t, nil)
	spec := l.spec()
	script := filepath.Join(t.TempDir(), "command")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho up\nsleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec.Restarts, spec.Argv = true, []string{script}
	r := l.start(spec)
	r.line()
	if err := os.Rename(script, script+"~"); err != nil {
		t.Fatal(err)
	}
	if turn := r.restart(time.Second); turn.Err == nil || !strings.Contains(turn.Err.Error(), script) {
		t.Fatalf("turn %+v", turn)
	}
	if err := os.Rename(script+"~", script); err != nil {
		t.Fatal(err)
	}
	if turn := r.restart(time.Second); turn.Pid == 0 {
		t.Fatalf("turn %+v", turn)
	}
	r.line()
	if err := os.Remove(script); err != nil {
		t.Fatal(err)
	}
	r.restart(time.Second)
	if exit := r.ends(); exit.Code != 127 {
		t.Errorf("exit %+v", exit)
	}
}
