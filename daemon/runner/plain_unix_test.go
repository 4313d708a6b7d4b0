//go:build unix

package runner

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// plainRun is a command of the shell's as our own child, with pipes for its outputs.
type plainRun struct {
	*Plain
	out, err string
	teed     map[bool]string
}

// runPlain runs a script to its end; meanwhile is called once it has written something.
func runPlain(t *testing.T, script string, meanwhile func(p *Plain)) (plainRun, Exit) {
	t.Helper()
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outR.Close() }()
	errR, errW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errR.Close() }()
	var mu sync.Mutex
	run := plainRun{teed: map[bool]string{}}
	p, err := StartPlain(t.Context(), Spec{Argv: []string{"sh", "-c", script}, Env: append(os.Environ(), "A=b")}, Stdio{
		Out: outW, Err: errW, Tee: func(stderr bool, b []byte) {
			mu.Lock()
			defer mu.Unlock()
			run.teed[stderr] += string(b)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run.Plain = p
	first := make([]byte, 1)
	if meanwhile != nil {
		if _, err := io.ReadFull(outR, first); err != nil {
			t.Fatal(err)
		}
		run.out = string(first)
		meanwhile(p)
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = outW.Close(), errW.Close()
	rest, _ := io.ReadAll(outR)
	run.out += string(rest)
	said, _ := io.ReadAll(errR)
	run.err = string(said)
	return run, exit
}

func TestPlainOutputAndStatus(t *testing.T) {
	run, exit := runPlain(t, `echo "out $A"; echo err >&2; exit 7`, nil)
	if exit.Code != 7 || exit.Signal != 0 {
		t.Errorf("ended with %+v, want status 7", exit)
	}
	if run.out != "out b\n" || run.err != "err\n" {
		t.Errorf("wrote %q and %q", run.out, run.err)
	}
	if run.teed[false] != run.out || run.teed[true] != run.err {
		t.Errorf("the copy is %q and %q", run.teed[false], run.teed[true])
	}
	if err := run.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal after the end: %v", err)
	}
}

func TestPlainSignalsReachTheGroup(t *testing.T) {
	run, exit := runPlain(t, `trap 'echo told; exit 3' TERM; (trap 'echo child' TERM; echo x; while :; do sleep 0.05; done) & while :; do sleep 0.05; done`, func(p *Plain) {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	if exit.Code != 3 {
		t.Errorf("ended with %+v, want status 3", exit)
	}
	if !strings.Contains(run.out, "told") || !strings.Contains(run.out, "child") {
		t.Errorf("not all were told: %q", run.out)
	}
}

func TestPlainDeathBySignal(t *testing.T) {
	_, exit := runPlain(t, `echo x; while :; do sleep 0.05; done`, func(p *Plain) {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	if exit.Code != 128+9 || exit.Signal != syscall.SIGKILL {
		t.Errorf("ended with %+v", exit)
	}
}

func TestPlainLeavesNothingBehind(t *testing.T) {
	run, _ := runPlain(t, `sleep 1000 >/dev/null 2>&1 & echo $!`, nil)
	pid := strings.TrimSpace(run.out)
	if b, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(b), "sleep") {
		t.Errorf("process %s still runs", pid)
	}
}

func TestPlainHook(t *testing.T) {
	_, _ = runPlain(t, `echo x; while [ -z "$done" ]; do sleep 0.05; done`, func(p *Plain) {
		if err := p.RunHook(Hook{Argv: []string{"sh", "-c", `test "$A" = b`}}); err != nil {
			t.Errorf("a hook with the command's environment: %v", err)
		}
		if err := p.RunHook(Hook{Argv: []string{"false"}}); err == nil {
			t.Error("a hook that fails is no error")
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
}

func TestPlainNeedsACommand(t *testing.T) {
	if _, err := StartPlain(t.Context(), Spec{}, Stdio{}); err == nil {
		t.Error("started nothing")
	}
	if _, err := StartPlain(t.Context(), Spec{Argv: []string{"/no/such/command"}}, Stdio{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
