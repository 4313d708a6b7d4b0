package place

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a started command with pipes. Its methods are safe for
// concurrent use; Stop must be called.
type Process struct {
	// Stdin and Stdout are the ends of its pipes. Who reads Stdout gets its
	// end when the process has closed it.
	Stdin  io.WriteCloser
	Stdout io.Reader

	name   string
	cmd    *exec.Cmd
	stderr *Lines
	exited chan struct{} // closed after err is set
	err    error
}

// Start runs the command that Place.Command prepared.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{name: strings.Join(cmd.Args, " "), cmd: cmd, stderr: NewLines(), exited: make(chan struct{})}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	// Not StdoutPipe: Wait would close it under a reader that is not done.
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, p.stderr
	// A grandchild that keeps the pipes open must not keep Wait.
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	p.Stdin, p.Stdout = stdin, out
	go func() {
		p.err = cmd.Wait()
		_ = in.Close()
		p.stderr.Close()
		close(p.exited)
	}()
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stderr is what it has written there, line by line.
func (p *Process) Stderr() *Lines { return p.stderr }

// Exited is closed when it has ended and its output is complete.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for its end. The error is that of ctx, or of a process that did
// not end with status 0, with the last of its stderr.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w; stderr: %s", p.name, ctx.Err(), p.stderr.Tail(10))
	case <-p.exited:
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w; stderr: %s", p.name, p.err, p.stderr.Tail(10))
	}
	return nil
}

// Stop ends the process, unless it has ended: it closes its stdin and, each
// after the given patience, sends SIGTERM and SIGKILL. It returns nil once the
// process has ended on its own or by SIGTERM, an error if it had to be killed.
func (p *Process) Stop(patience time.Duration) error {
	_ = p.Stdin.Close()
	// A process that still writes must not hang on our not reading.
	go func() { _, _ = io.Copy(io.Discard, p.Stdout) }()
	if p.endsWithin(patience) {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if p.endsWithin(patience) {
		return nil
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
	return fmt.Errorf("stop %s: it had to be killed; stderr: %s", p.name, p.stderr.Tail(10))
}

func (p *Process) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		return false
	}
}

// Output runs cmd to its end, or until ctx ends (then it gets SIGTERM, and
// SIGKILL after two seconds), and returns its stdout. A failure's error
// carries its stderr.
func Output(ctx context.Context, cmd *exec.Cmd, stdin string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	name := strings.Join(cmd.Args, " ")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	stopTerm := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		time.AfterFunc(2*time.Second, func() { _ = cmd.Process.Kill() })
	})
	defer stopTerm()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%s: %w; stderr: %s", name, errors.Join(err, ctx.Err()), bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// Line is one line of output, without its end, and when it was complete.
type Line struct {
	At   time.Time
	Text string
}

// Lines is a writer that keeps lines with their times. It is safe for
// concurrent use.
type Lines struct {
	mu      sync.Mutex // guards what follows
	partial []byte
	lines   []Line
	closed  bool
	grown   chan struct{} // closed and replaced at each change
}

// NewLines returns an empty Lines.
func NewLines() *Lines { return &Lines{grown: make(chan struct{})} }

// Write never fails.
func (l *Lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	now := time.Now()
	for {
		advance, line, _ := bufio.ScanLines(l.partial, false)
		if advance == 0 {
			break
		}
		l.lines = append(l.lines, Line{At: now, Text: string(line)})
		l.partial = l.partial[advance:]
	}
	l.changedLocked()
	return len(b), nil
}

// Close says that there will be no more, and ends a last line without an end.
func (l *Lines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.lines = append(l.lines, Line{At: time.Now(), Text: string(l.partial)})
		l.partial = nil
	}
	l.closed = true
	l.changedLocked()
}

func (l *Lines) changedLocked() {
	close(l.grown)
	l.grown = make(chan struct{})
}

// All returns the lines so far.
func (l *Lines) All() []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Line(nil), l.lines...)
}

// Tail joins the last n lines for a message.
func (l *Lines) Tail(n int) string {
	all := l.All()
	all = all[max(0, len(all)-n):]
	texts := make([]string, len(all))
	for i, line := range all {
		texts[i] = line.Text
	}
	return strings.Join(texts, " | ")
}

// Await returns the first line that match accepts, waiting for it until ctx
// or the lines end.
func (l *Lines) Await(ctx context.Context, match func(string) bool) (Line, error) {
	for next := 0; ; {
		l.mu.Lock()
		lines, grown, closed := l.lines[next:], l.grown, l.closed
		l.mu.Unlock()
		for _, line := range lines {
			if match(line.Text) {
				return line, nil
			}
		}
		next += len(lines)
		if closed {
			return Line{}, fmt.Errorf("the output ended: %w: %s", io.ErrUnexpectedEOF, l.Tail(10))
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return Line{}, fmt.Errorf("%w; so far: %s", ctx.Err(), l.Tail(10))
		}
	}
}
