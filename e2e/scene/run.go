package scene

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Run is a command that the world's user has started.
type Run struct {
	w      *World
	cmd    *exec.Cmd
	args   []string
	exited chan struct{} // closed once it has ended and all its output is read
	status int           // valid once exited is closed

	stdout, stderr *output
}

// output collects a stream. Safe for concurrent use.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// How says how a command is started, where that is not the usual way.
type How struct {
	Dir   string    // "": the user's home
	Stdin io.Reader // nil: empty
	As    *User     // nil: the world's user
	// Wrap goes before the command, for example setpriv with its arguments.
	Wrap []string
	// Terminal, if set, is the terminal's other end: the command gets it as its
	// controlling terminal, for all three streams.
	Terminal *os.File
	Env      []string // added to the world's
}

// Teleswap starts the command line with the arguments, in a process group of its own.
func (w *World) Teleswap(args ...string) *Run {
	w.T.Helper()
	return w.Start(How{}, append([]string{w.Lab.Bin.Teleswap}, args...)...)
}

// Start starts any program on the laptop. Whatever happens it is ended with the test.
func (w *World) Start(how How, argv ...string) *Run {
	w.T.Helper()
	dir, user := how.Dir, w.User
	if dir == "" {
		dir = w.Home
	}
	if how.As != nil {
		user = *how.As
	}
	cmd := w.laptop().command(user, dir, append(w.environment(), how.Env...), append(how.Wrap, argv...)...)
	r := &Run{w: w, cmd: cmd, args: argv, exited: make(chan struct{}), stdout: &output{}, stderr: &output{}}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = how.Stdin, r.stdout, r.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if how.Terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = how.Terminal, how.Terminal, how.Terminal
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	// A process that outlives the command and holds its streams must not hold up the test.
	cmd.WaitDelay = 5 * time.Second
	w.must(cmd.Start(), "start %s", strings.Join(argv, " "))
	go r.wait()
	w.T.Cleanup(r.end)
	return r
}

func (r *Run) wait() {
	defer close(r.exited)
	err := r.cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		r.status = r.cmd.ProcessState.ExitCode()
	case errors.As(err, &exit):
		r.status = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			r.status = -int(ws.Signal())
		}
	default:
		r.status = -1000
	}
}

// end is for a test that failed half-way: first politely, so that what was swapped comes back.
func (r *Run) end() {
	if r.w.T.Failed() {
		r.w.T.Logf("%s\n--- stderr:\n%s\n--- stdout:\n%s", strings.Join(r.args, " "), tail(r.Stderr(), 40), tail(r.Stdout(), 20))
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-r.exited:
			return
		default:
		}
		_ = syscall.Kill(r.cmd.Process.Pid, s) // it may have ended by now
		select {
		case <-r.exited:
		case <-time.After(30 * time.Second):
		}
	}
}

// T is the test that the command belongs to.
func (r *Run) T() testing.TB { return r.w.T }

// PID is the command's own.
func (r *Run) PID() int { return r.cmd.Process.Pid }

// Stdout is what the command wrote to its standard output so far.
func (r *Run) Stdout() string { return r.stdout.String() }

// Stderr is what the command wrote to its standard error so far.
func (r *Run) Stderr() string { return r.stderr.String() }

// Signal sends a signal to the command alone.
func (r *Run) Signal(s syscall.Signal) {
	r.w.T.Helper()
	r.w.must(syscall.Kill(r.PID(), s), "send %s to %d", s, r.PID())
}

// SignalGroup sends a signal to the command's process group, as a terminal does.
func (r *Run) SignalGroup(s syscall.Signal) {
	r.w.T.Helper()
	r.w.must(syscall.Kill(-r.PID(), s), "send %s to group %d", s, r.PID())
}

// Exited reports whether the command has ended.
func (r *Run) Exited() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// Wait waits for the command's end and returns its exit status; a signal's number,
// negated, if one ended it.
func (r *Run) Wait() int {
	r.w.T.Helper()
	return r.waitExit(patience)
}

func (r *Run) waitExit(limit time.Duration) int {
	r.w.T.Helper()
	select {
	case <-r.exited:
		return r.status
	case <-time.After(limit):
		r.w.T.Fatalf("%s has not ended after %s; stderr:\n%s", strings.Join(r.args, " "), limit, r.Stderr())
		return 0
	}
}

// WaitLong is WaitEnd for what takes the machine minutes.
func (r *Run) WaitLong(want int) {
	r.w.T.Helper()
	if got := r.waitExit(5 * patience); got != want {
		r.w.T.Fatalf("%s: exit status %d, want %d; stderr:\n%s", strings.Join(r.args, " "), got, want, r.Stderr())
	}
}

// WaitStderr waits until standard error has a line that matches, and returns that line.
func (r *Run) WaitStderr(pattern string) string {
	r.w.T.Helper()
	return r.waitFor(r.stderr, pattern)
}

// WaitStdout is WaitStderr for standard output.
func (r *Run) WaitStdout(pattern string) string {
	r.w.T.Helper()
	return r.waitFor(r.stdout, pattern)
}

func (r *Run) waitFor(o *output, pattern string) string {
	r.w.T.Helper()
	re := regexp.MustCompile("(?m)^.*?(?:" + pattern + ").*$")
	var line string
	r.w.Eventually("a line that matches "+pattern, func() string {
		ended := r.Exited()
		if line = re.FindString(o.String()); line != "" {
			return ""
		}
		if ended {
			r.w.T.Fatalf("%s ended with status %d before a line matched %s; stderr:\n%s",
				strings.Join(r.args, " "), r.Wait(), pattern, r.Stderr())
		}
		return "output: " + o.String()
	})
	return line
}

// WaitSwapped waits until the local process has taken over.
func (r *Run) WaitSwapped() {
	r.w.T.Helper()
	r.WaitStderr(`^swapped: `)
}

// WaitEnd waits for the end and fails the test if the status is another than expected.
func (r *Run) WaitEnd(want int) {
	r.w.T.Helper()
	if got := r.Wait(); got != want {
		r.w.T.Fatalf("%s: exit status %d, want %d; stderr:\n%s", strings.Join(r.args, " "), got, want, r.Stderr())
	}
}

// Output runs the command line to its end, which must be a good one, and returns its
// standard output.
func (w *World) Output(args ...string) string {
	w.T.Helper()
	r := w.Teleswap(args...)
	r.WaitEnd(0)
	return r.Stdout()
}
