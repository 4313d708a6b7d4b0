package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/teleswap/teleswap/daemon/api"
)

// progress prints a line a step, and on a terminal a spinner while a step lasts. It is
// safe for concurrent use.
type progress struct {
	w        io.Writer
	terminal bool
	color    bool
	up       *overseer // not nil: it is told, and prints
	// brief has nothing printed that is not worth a line to who wants the command's output: off a terminal nothing at all but
	// problems, on one no steps.
	brief bool

	mu       sync.Mutex
	running  string // name of the step under way
	began    time.Time
	spinning chan struct{} // closed to end the spinner; nil: none
	spun     chan struct{} // closed when it has ended
	detail   string        // of the last step that ended well
	quiet    bool          // the child shares the terminal: no spinner
	newline  string
}

const (
	nameWidth   = 8
	detailWidth = 56
	spinEvery   = 100 * time.Millisecond
)

var spinFrames = [...]string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func newProgress(f *os.File) *progress {
	terminal := term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	return &progress{w: f, newline: "\n", terminal: terminal, color: terminal && os.Getenv("NO_COLOR") == ""}
}

// event prints what has lines: steps, messages, the beginning of a restore.
func (p *progress) event(e *api.Event) {
	switch e := e.GetEvent().(type) {
	case *api.Event_Step:
		p.step(e.Step)
	case *api.Event_Message:
		if e.Message.GetWarning() {
			p.line("%s %s", p.paint(yellow, "!"), e.Message.GetText())
		} else {
			p.line("· %s", e.Message.GetText())
		}
	case *api.Event_Restoring:
		p.up.stage(stageRestoring)
		p.line("restoring: %s", e.Restoring.GetReason())
	}
}

func (p *progress) step(s *api.Step) {
	if p.up != nil {
		p.up.step(s)
		return
	}
	if s.GetState() == api.Step_STARTED {
		p.spin(s.GetName())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endSpinLocked()
	if s.GetState() == api.Step_DONE && s.GetDetail() != "" {
		p.detail = s.GetDetail()
	}
	if p.brief {
		return
	}
	p.writeLocked(p.stepLine(s.GetName(), s.GetDetail(), s.GetState() == api.Step_FAILED, time.Duration(s.GetMicroseconds())*time.Microsecond) + "\n")
}

// stepLine is a step that has ended.
func (p *progress) stepLine(name, detail string, failed bool, took time.Duration) string {
	mark := p.paint(green, "✓")
	if failed {
		mark = p.paint(red, "✗")
	}
	return fmt.Sprintf("%s %s %s %6s", mark, pad(name, nameWidth), pad(detail, detailWidth), short(took))
}

// problem prints a line that must be read.
func (p *progress) problem(format string, args ...any) { p.print("! "+format, args...) }

// line prints one line between those of the steps.
func (p *progress) line(format string, args ...any) {
	if p.brief && !p.terminal {
		return
	}
	p.print(format, args...)
}

func (p *progress) print(format string, args ...any) {
	if p.up != nil {
		p.up.tell(upReport{Line: fmt.Sprintf(format, args...)})
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
	p.writeLocked(fmt.Sprintf(format+"\n", args...))
	p.drawLocked(0)
}

func (p *progress) writeLocked(text string) {
	fmt.Fprint(p.w, strings.ReplaceAll(text, "\n", p.newline))
}

// share ends the spinners for good: the child writes to the terminal from now on, and it may be raw.
func (p *progress) share() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = true
	if p.terminal {
		p.newline = "\r\n"
	}
	p.endSpinLocked()
}

// stop ends the spinner, if there is one.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endSpinLocked()
}

func (p *progress) spin(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endSpinLocked()
	if !p.terminal || p.quiet {
		return
	}
	p.running, p.began = name, time.Now()
	p.spinning, p.spun = make(chan struct{}), make(chan struct{})
	p.drawLocked(0)
	go p.spinLoop(p.spinning, p.spun)
}

// spinLoop ends when stop is closed.
func (p *progress) spinLoop(stop <-chan struct{}, spun chan<- struct{}) {
	defer close(spun)
	tick := time.NewTicker(spinEvery)
	defer tick.Stop()
	for frame := 1; ; frame++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		p.drawLocked(frame)
		p.mu.Unlock()
	}
}

// endSpinLocked leaves the line empty. The loop is not waited for here, as it may want
// the lock; it draws nothing once running is empty.
func (p *progress) endSpinLocked() {
	if p.spinning == nil {
		return
	}
	p.clearLocked()
	close(p.spinning)
	p.spinning, p.running = nil, ""
}

func (p *progress) drawLocked(frame int) {
	if p.running == "" {
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s %s %6s", spinFrames[frame%len(spinFrames)], pad(p.running, nameWidth), short(time.Since(p.began)))
}

func (p *progress) clearLocked() {
	if p.running != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// colour is an SGR code of ECMA-48.
type colour string

const (
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

func (p *progress) paint(c colour, text string) string {
	if !p.color {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// pad fills a text up to a width in characters; longer ones stay whole.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-len([]rune(text))))
}

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// joined is the detail of the last step that ended well, up to what only some want to know.
func (p *progress) joined() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	detail, _, _ := strings.Cut(p.detail, ";")
	return detail
}
