package runner

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	// copySize is how much output is passed on at once.
	copySize = 32 << 10
	// lastWords is how long output may take to come out of a pipe whose writers have all ended.
	lastWords = 2 * time.Second
)

// plumbing is between the command's output and the caller's, so that a copy of it can be taken. Where the caller has a
// terminal the command has one, where he has a pipe or a file it has a pipe.
type plumbing struct {
	in, out, err *os.File // what the command gets
	tee          func(stderr bool, p []byte)
	terminal     *terminal // the command's own; nil: it is on the caller's

	given   []*os.File // the command's ends and doubles of ours, closed once the sandbox has them
	sources []*os.File // our ends
	flows   []flow
	screens []*os.File // terminals among them, whose size follows to
	follow  *os.File

	copies  sync.WaitGroup
	resized chan os.Signal
	sigpipe chan os.Signal
	over    chan struct{} // closed by finish
	loops   sync.WaitGroup
}

// flow is one way from the command to the caller.
type flow struct {
	from, to *os.File
	note     func([]byte)
}

// plumb makes what the command gets instead of the caller's files. The caller calls started or abandon.
func plumb(s Stdio) (*plumbing, error) {
	p := &plumbing{in: s.In, out: s.Out, err: s.Err, tee: s.Tee, over: make(chan struct{})}
	if s.Tee == nil {
		return p, nil
	}
	err := p.join(s)
	if err != nil {
		p.abandon()
		return nil, err
	}
	return p, nil
}

func (p *plumbing) join(s Stdio) error {
	if ownTerminal(s) {
		t, slave, err := newTerminal(s)
		if err != nil {
			return err
		}
		p.terminal = t
		p.in, p.out, p.err = slave, slave, slave
		p.given = append(p.given, slave)
		p.from(t.master, s.Out, false, true)
		return nil
	}
	var err error
	if p.out, err = p.divert(s.Out, false); err != nil {
		return err
	}
	if same(s.Out, s.Err) { // one pipe, so that the order of what is written stays
		p.err = p.out
		return nil
	}
	p.err, err = p.divert(s.Err, true)
	return err
}

// divert is what the command gets for one of its outputs.
func (p *plumbing) divert(to *os.File, stderr bool) (*os.File, error) {
	if to == nil {
		return nil, nil
	}
	var ours, theirs *os.File
	var err error
	screen := term.IsTerminal(int(to.Fd()))
	if screen {
		ours, theirs, err = openPair(to, true)
	} else {
		ours, theirs, err = os.Pipe()
	}
	if err != nil {
		return nil, err
	}
	if screen {
		p.screens, p.follow = append(p.screens, ours), to
	}
	p.given = append(p.given, theirs)
	p.from(ours, to, stderr, screen)
	return theirs, nil
}

// from notes what is to be copied. Of a terminal the copy for the log has plain newlines.
func (p *plumbing) from(ours, to *os.File, stderr, screen bool) {
	p.sources = append(p.sources, ours)
	note := func(b []byte) { p.tee(stderr, b) }
	if screen {
		note = plainNewlines(note)
	}
	p.flows = append(p.flows, flow{ours, to, note})
}

// copyLoop ends when the command's last process has ended, or nobody reads what it writes.
func (p *plumbing) copyLoop(f flow, letGo func()) {
	buf := make([]byte, copySize)
	for {
		n, err := f.from.Read(buf)
		if n > 0 {
			if _, werr := f.to.Write(buf[:n]); errors.Is(werr, syscall.EPIPE) {
				// The command learns that its reader has gone as it would without us: by SIGPIPE at its next word.
				letGo()
				_ = f.from.Close()
				return
			}
			// A terminal that has gone, or a disk that is full, ends nothing: the log goes on.
			f.note(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// held are doubles of our ends, which keep the command's outputs open when we die.
func (p *plumbing) held() ([]*os.File, error) {
	var doubles []*os.File
	for _, s := range p.sources {
		err := control(s, func(fd int) error {
			double, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err == nil {
				doubles = append(doubles, os.NewFile(uintptr(double), s.Name()))
				p.given = append(p.given, doubles[len(doubles)-1])
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("duplicate the command's output: %w", err)
		}
	}
	return doubles, nil
}

// started lets go of what the command has now, and begins to copy. letGo has the sandbox close its doubles.
func (p *plumbing) started(pid int, letGo func()) {
	p.closeGiven()
	for _, f := range p.flows {
		// To give a file to a process makes it blocking (os.File.Fd), and a double is the same file.
		_ = control(f.from, func(fd int) error { return unix.SetNonblock(fd, true) })
		p.copies.Go(func() { p.copyLoop(f, letGo) })
	}
	if p.tee == nil {
		return
	}
	// A write to a closed pipe would end us, if it is our own output (os/signal, "SIGPIPE").
	p.sigpipe = make(chan os.Signal, 1)
	signal.Notify(p.sigpipe, syscall.SIGPIPE)
	if len(p.screens) > 0 {
		p.resized = make(chan os.Signal, 1)
		signal.Notify(p.resized, unix.SIGWINCH)
		p.loops.Go(p.resizeLoop)
	}
	if p.terminal != nil {
		p.terminal.begin(pid)
	}
}

func (p *plumbing) resizeLoop() {
	for {
		select {
		case <-p.resized:
			for _, s := range p.screens {
				followSize(p.follow, s)
			}
		case <-p.over:
			return
		}
	}
}

// finish returns when all output is where it belongs, and the caller's terminal as it was.
func (p *plumbing) finish() {
	late := time.AfterFunc(lastWords, func() {
		for _, s := range p.sources {
			_ = s.SetReadDeadline(time.Now())
		}
	})
	p.copies.Wait()
	late.Stop()
	close(p.over)
	if p.terminal != nil {
		p.terminal.end()
	}
	if p.resized != nil {
		signal.Stop(p.resized)
	}
	p.loops.Wait()
	if p.sigpipe != nil {
		signal.Stop(p.sigpipe)
	}
	for _, s := range p.sources {
		_ = s.Close()
	}
}

// abandon is finish for a command that never started.
func (p *plumbing) abandon() {
	p.closeGiven()
	if p.tee != nil {
		p.finish()
	}
}

func (p *plumbing) closeGiven() {
	for _, f := range p.given {
		_ = f.Close()
	}
	p.given = nil
}

// same says whether two files are one, so that what is written to them has one order.
func same(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return errors.Join(err1, err2) == nil && os.SameFile(x, y)
}

// plainNewlines undoes what a terminal's line discipline does to newlines (ONLCR, termios(3)).
func plainNewlines(note func([]byte)) func([]byte) {
	held := false // a carriage return that may belong to a newline
	return func(b []byte) {
		out := make([]byte, 0, len(b)+1)
		for _, c := range b {
			if held && c != '\n' {
				out = append(out, '\r')
			}
			if held = c == '\r'; !held {
				out = append(out, c)
			}
		}
		if len(out) > 0 {
			note(out)
		}
	}
}
