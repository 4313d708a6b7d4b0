package runner

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// holding starts a sandbox without a command, but with a door.
func (l *lab) holding() (*running, string) {
	spec := l.spec()
	spec.Argv, spec.Door = nil, filepath.Join(filepath.Dir(l.handoff), "s1.door")
	return l.start(spec), spec.Door
}

// entered starts a command by the door, with pipes.
func entered(t *testing.T, door string, e Entry) *running {
	t.Helper()
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	p, err := Enter(t.Context(), door, e, Stdio{In: inR, Out: outW, Err: outW})
	_ = errors.Join(inR.Close(), outW.Close())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = inW.Close()
		_ = p.Signal(syscall.SIGKILL)
		_, _ = p.Wait()
		_ = outR.Close()
	})
	return &running{Process: p, t: t, stdin: inW, stdout: bufio.NewReader(outR)}
}

// TestEnter runs commands in a sandbox that has none of its own.
func TestEnter(t *testing.T) {
	l := newLab(t, nil)
	held, door := l.holding()
	if st, err := os.Stat(door); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the door: %v, %v", st, err)
	}
	dir := t.TempDir()
	script := `echo $GREETING $MINE $(hostname); pwd; cat /etc/resolv.conf; cat; exit 7`
	r := entered(t, door, Entry{Argv: []string{"sh", "-c", script}, Dir: dir, Env: []string{"MINE=mine", "GREETING=Hello"}})
	if _, err := r.stdin.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	_ = r.stdin.Close()
	got, exit := r.output()
	want := "Hello mine service-a-0\n" + dir + "\nnameserver 10.96.0.10\ntyped\n"
	if got != want || exit.Code != 7 {
		t.Errorf("got %q and %+v, want %q", got, exit, want)
	}
	r = entered(t, door, Entry{Argv: []string{"sh", "-c", "echo up; exec sleep 1000"}})
	r.line()
	if err := r.Signal(syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	if exit, err := r.Wait(); err != nil || exit.Signal != syscall.SIGUSR1 {
		t.Errorf("ended with %+v, %v", exit, err)
	}
	for name, e := range map[string]Entry{
		"not found":                 {Argv: []string{"no-such-command"}},
		"no such file or directory": {Argv: []string{"sh"}, Dir: "/no/such/directory"},
		"no command":                {},
	} {
		if _, err := Enter(t.Context(), door, e, Stdio{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v, want %q", e.Argv, err, name)
		}
	}
	if err := held.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit, err := held.Wait(); err != nil || exit.Code != 0 {
		t.Errorf("the held sandbox ended with %+v, %v", exit, err)
	}
	if _, err := os.Lstat(door); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the door stayed: %v", err)
	}
	if _, err := Enter(t.Context(), door, Entry{Argv: []string{"sh"}}, Stdio{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("entering what is not there: %v", err)
	}
}

// TestHoldKeepsSIGINT: Ctrl-C is for who holds the sandbox to act on.
func TestHoldKeepsSIGINT(t *testing.T) {
	l := newLab(t, nil)
	held, door := l.holding()
	if err := held.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got, _ := entered(t, door, Entry{Argv: []string{"echo", "here"}}).output(); got != "here\n" {
		t.Errorf("got %q", got)
	}
}

// TestEnteredEndsWithTheSandbox even where it takes no SIGTERM, as shells do.
func TestEnteredEndsWithTheSandbox(t *testing.T) {
	l := newLab(t, nil)
	spec := l.spec("serve", "127.0.0.1:8080")
	spec.Door = filepath.Join(filepath.Dir(l.handoff), "s1.door")
	own := l.start(spec)
	own.line()
	r := entered(t, spec.Door, Entry{Argv: []string{"sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"}})
	r.line()
	_ = own.stdin.Close()
	if exit, err := own.Wait(); err != nil || exit.Code != 0 {
		t.Errorf("the command ended with %+v, %v", exit, err)
	}
	if exit, err := r.Wait(); err != nil || exit.Signal != syscall.SIGHUP {
		t.Errorf("who had come in ended with %+v, %v", exit, err)
	}
}

// TestEnteredEndsWithItsCaller when that is gone without a word.
func TestEnteredEndsWithItsCaller(t *testing.T) {
	l := newLab(t, nil)
	_, door := l.holding()
	r := entered(t, door, Entry{Argv: []string{"sh", "-c", "echo up; exec sleep 1000"}})
	r.line()
	_ = r.ctl.Close()
	// Its output ends when it does.
	if _, err := io.ReadAll(r.stdout); err != nil {
		t.Error(err)
	}
}

// TestSignalIsTheCommandsAlone: who has come in by the door has signals of his own.
func TestSignalIsTheCommandsAlone(t *testing.T) {
	l := newLab(t, nil)
	script := `trap 'echo one' USR1; trap 'echo two' USR2; echo up; while :; do sleep 0.1; done`
	spec := l.spec()
	spec.Argv = []string{"sh", "-c", script}
	spec.Door = filepath.Join(filepath.Dir(l.handoff), "s1.door")
	own := l.start(spec)
	own.line()
	r := entered(t, spec.Door, Entry{Argv: spec.Argv})
	r.line()
	if err := own.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := said(own); got != "one" {
		t.Errorf("the command says %q", got)
	}
	if err := r.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if got := said(r); got != "two" {
		t.Errorf("who has come in says %q", got)
	}
}

// said is the next line of a script, without what its shell says of a sleep that the signal ended, too.
func said(script interface{ line() string }) string {
	for {
		if line := script.line(); !strings.HasPrefix(line, "User defined signal") {
			return line
		}
	}
}
