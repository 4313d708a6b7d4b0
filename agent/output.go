package agent

import (
	"errors"
	"io"
	"sync"
)

// maxKept is how much of its own log the agent keeps back while a line of the local
// process is not at its end.
const maxKept = 64 << 10

// Output is where the pod's logs come from: the local process's output byte for byte, and the
// agent's own log, whose lines never come into the midst of one of the process's. It is
// safe for concurrent use.
type Output struct {
	stdoutMu sync.Mutex
	stdout   io.Writer

	mu     sync.Mutex
	stderr io.Writer
	inLine bool   // the process's last byte on stderr did not end a line
	over   bool   // and it will not: the next line of the agent's has to
	kept   []byte // lines of the agent that wait for its end
}

// NewOutput writes to the two streams, which stay the caller's.
func NewOutput(stdout, stderr io.Writer) *Output { return &Output{stdout: stdout, stderr: stderr} }

// Write writes a line of the agent's own log to the standard error.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inLine && !o.over && len(o.kept)+len(p) <= maxKept {
		o.kept = append(o.kept, p...)
		return len(p), nil
	}
	if err := errors.Join(o.breakLocked(), o.releaseLocked()); err != nil {
		return 0, err
	}
	return o.stderr.Write(p)
}

// releaseLocked writes what was kept back.
func (o *Output) releaseLocked() error {
	if len(o.kept) == 0 {
		return nil
	}
	_, err := o.stderr.Write(o.kept)
	o.kept = nil
	return err
}

// breakLocked ends the process's line for a line of the agent's.
func (o *Output) breakLocked() error {
	if !o.inLine {
		return nil
	}
	o.inLine, o.over = false, false
	_, err := o.stderr.Write([]byte("\n"))
	return err
}

// log writes a piece of the process's output.
func (o *Output) log(stderr bool, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if !stderr {
		o.stdoutMu.Lock()
		defer o.stdoutMu.Unlock()
		_, err := o.stdout.Write(p)
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.stderr.Write(p); err != nil {
		return err
	}
	o.inLine, o.over = p[len(p)-1] != '\n', false
	if o.inLine {
		return nil
	}
	return o.releaseLocked()
}

// end says that the process writes no more: what was kept back comes out, on a line of its
// own. Without anything of the agent's to come, the process's last line stays as it is.
func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	if len(o.kept) > 0 {
		_ = errors.Join(o.breakLocked(), o.releaseLocked()) // nobody is left to tell
	}
}
