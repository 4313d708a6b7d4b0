package agent

import (
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
	kept   []byte // lines of the agent that wait for its end
}

// NewOutput writes to the two streams, which stay the caller's.
func NewOutput(stdout, stderr io.Writer) *Output { return &Output{stdout: stdout, stderr: stderr} }

// Write writes a line of the agent's own log to the standard error.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inLine && len(o.kept)+len(p) <= maxKept {
		o.kept = append(o.kept, p...)
		return len(p), nil
	}
	if err := o.releaseLocked(); err != nil {
		return 0, err
	}
	return o.stderr.Write(p)
}

func (o *Output) releaseLocked() error {
	o.inLine = false
	if len(o.kept) == 0 {
		return nil
	}
	_, err := o.stderr.Write(o.kept)
	o.kept = nil
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
	if p[len(p)-1] == '\n' {
		return o.releaseLocked()
	}
	o.inLine = true
	return nil
}

// end says that the process writes no more: what was kept back comes out, on a line of its own.
func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inLine {
		_, _ = o.stderr.Write([]byte("\n")) // of the agent: its next line would stand behind the process's
	}
	_ = o.releaseLocked() // nobody is left to tell
}
