package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/project"
)

// fakeSwaps has this test's binary stand for a swap that up has started. Of the target's name it takes what it does.
const fakeSwaps = "TELESWAP_TEST_FAKE_SWAPS"

func fakeSwap(args []string) int {
	socket := strings.TrimPrefix(args[1], "--"+overseerFlag+"=")
	target := args[len(args)-1]
	if target == "mute" {
		return 7
	}
	up, env, err := meet(socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	signals := make(chan os.Signal, 8)
	up.follow(signals)
	fmt.Println("env", env)
	if target == "fails" {
		up.tell(upReport{Step: &upStep{Name: "mark", Failed: true}})
		err = &exitError{3, errors.New("refused")}
		up.end(err)
		return exitStatus(err)
	}
	up.stage(stageSwapped)
	switch target {
	case "ends":
	case "exits":
		err = &exitError{status: 5}
	case "late": // its process has ended, and it takes its time to restore
		up.stage(stageRestoring)
		up.tell(upReport{Line: "restoring"})
		fmt.Println("told", <-signals)
		err = &exitError{status: 6}
	case "killed":
		_ = signalTo(os.Getpid(), os.Kill)
	default:
		sig := <-signals
		fmt.Println("ended by", sig)
		if target == "slow" {
			fmt.Println("hurried by", <-signals)
		}
		up.stage(stageRestoring)
		err = &exitError{status: 130}
		if target == "dirty" {
			err = errors.New("not restored")
		}
	}
	up.end(err)
	return exitStatus(err)
}

// upWith runs up with fake swaps of these targets. Each time that its output has a line that matches a signal's pattern, the
// signal comes.
func upWith(t *testing.T, keepGoing bool, targets []string, on map[string]os.Signal) (status int, text string) {
	t.Helper()
	t.Setenv(fakeSwaps, "yes")
	dir, err := os.MkdirTemp("", "tsw") //nolint:usetesting // its names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "up-1.sock"), nil, 0o600); err != nil { // somebody's who was killed
		t.Fatal(err)
	}
	view, _, _ := testView(false, 0, 0, targets...)
	signals := make(chan os.Signal, 8)
	heard := &listening{on: on, signals: signals}
	view.out, view.err, view.ui.w = heard, heard, heard
	var sessions []project.Session
	for _, name := range targets {
		at := dir
		if name == "nowhere" {
			at = filepath.Join(dir, "none")
		}
		sessions = append(sessions, project.Session{
			Name: name, Target: project.Target{Text: name}, Dir: at, Env: []string{"A=secret of " + name},
		})
	}
	u := newUpping(view, []string{"--x"}, keepGoing)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	err = u.run(exe, dir, sessions, signals)
	if left, _ := filepath.Glob(filepath.Join(dir, upSockets)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	text = heard.take()
	if err != nil {
		text += err.Error()
	}
	return exitStatus(err), text
}

// listening is shown that sends signals.
type listening struct {
	shown
	on      map[string]os.Signal
	signals chan<- os.Signal
}

func (l *listening) Write(p []byte) (int, error) {
	n, err := l.shown.Write(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	for pattern, sig := range l.on {
		if regexp.MustCompile(pattern).Match(l.text.Bytes()) {
			delete(l.on, pattern)
			l.signals <- sig
		}
	}
	return n, err
}

func TestUp(t *testing.T) {
	cases := []struct {
		name      string
		targets   []string
		keepGoing bool
		on        map[string]os.Signal
		status    int
		want      []string
		not       string
	}{
		{
			"Ctrl-C ends all",
			[]string{"a", "b"},
			false,
			map[string]os.Signal{"all 2 sessions are swapped": os.Interrupt},
			0,
			[]string{"a | env [A=secret of a]", "b | env [A=secret of b]", "a | ended by interrupt", "b | ended by interrupt", "ending 2 sessions"},
			"failed",
		},
		{
			"once more hurries",
			[]string{"slow"},
			false,
			map[string]os.Signal{"slow . env": syscall.SIGTERM, "ended by": os.Interrupt},
			0,
			[]string{"slow | ended by terminated", "slow | hurried by interrupt"},
			"failed",
		},
		{"all end by themselves", []string{"ends", "ends2"}, false, map[string]os.Signal{"ends2 . env": syscall.SIGHUP}, 0, []string{"ends2 | ended by hangup"}, "failed"},
		{
			"one fails before all are swapped",
			[]string{"fails", "a"},
			false, nil, 3,
			[]string{"fails | ✗ mark", "ending the others", "a     | ended by terminated", "1 of 2 sessions failed: fails (exit status 3)"},
			"",
		},
		{
			"the first cannot be started",
			[]string{"nowhere", "a"},
			false, nil, 1,
			[]string{"nowhere | it cannot be started", "ending the others", "a       | ended by terminated", "1 of 2 sessions failed: nowhere (exit status 1)"},
			"",
		},
		{
			"keep going",
			[]string{"fails", "a"},
			true,
			map[string]os.Signal{`(?s)a     . env.*✗ mark|✗ mark.*a     . env`: os.Interrupt},
			3,
			[]string{"a     | ended by interrupt", "1 of 2 sessions failed"},
			"ending the others",
		},
		{"without a word", []string{"mute"}, false, nil, 7, []string{"1 of 1 session failed: mute (exit status 7)"}, ""},
		{"killed", []string{"killed"}, false, nil, 137, []string{"killed (exit status 137)"}, ""},
		{"not restored", []string{"dirty"}, false, map[string]os.Signal{"dirty . env": os.Interrupt}, 1, []string{"dirty (exit status 1)"}, ""},
		{
			"its process failed before Ctrl-C",
			[]string{"late", "a"},
			false,
			map[string]os.Signal{"(?s)all 2.*late . restoring|late . restoring.*all 2": os.Interrupt},
			6,
			[]string{"late | told interrupt", "1 of 2 sessions failed: late (exit status 6)"},
			"",
		},
		{"its process fails", []string{"exits"}, false, nil, 5, []string{"exits (exit status 5)"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, text := upWith(t, c.keepGoing, c.targets, c.on)
			if status != c.status {
				t.Errorf("exit status %d, want %d", status, c.status)
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("lacks %q", want)
				}
			}
			if c.not != "" && strings.Contains(text, c.not) {
				t.Errorf("has %q", c.not)
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// TestUpNotStarted has a session whose program cannot be started.
func TestUpNotStarted(t *testing.T) {
	view, _, errs := testView(false, 0, 0, "a")
	u := newUpping(view, nil, false)
	dir := t.TempDir()
	t.Chdir(dir)
	err := u.run(filepath.Join(dir, "none"), ".", []project.Session{{Name: "a", Dir: dir}}, nil)
	if exitStatus(err) != 1 || !strings.Contains(errs.take(), "a | it cannot be started: ") {
		t.Errorf("got %v", err)
	}
}

// TestUpGone has up die: the swap hears of it as of a signal.
func TestUpGone(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	listener, err := listenUp(".")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte(`{"env":["A=b","C"]}` + "\n" + `{"end":"interrupt"}` + "\n" + `{"new":1}` + "\n"))
		_ = conn.Close()
	}()
	up, env, err := meet(listener.Addr().String())
	if err != nil || !slices.Equal(env, []string{"A=b", "C"}) {
		t.Fatal(env, err)
	}
	signals := make(chan os.Signal, 8)
	up.follow(signals)
	if first, second := <-signals, <-signals; first != os.Interrupt || second != (upGone{}) || !strings.Contains(signalText(second), "up` has died") {
		t.Errorf("got %v, %v", first, second)
	}
	up.end(nil) // tells nobody, and does not wait
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := meet(listener.Addr().String()); err == nil {
		t.Error("met nobody")
	}
}
