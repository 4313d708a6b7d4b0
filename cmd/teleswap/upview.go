package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/teleswap/teleswap/project"
)

// Further stages of a session, which it does not report itself.
const (
	stageEnded  upStage = "ended"
	stageFailed upStage = "failed"
)

// upView shows what sessions say, each line with its session's name, and on a terminal below that a line a session. It is safe for
// concurrent use.
type upView struct {
	ui    *progress // of our own lines: colours, forms
	width int       // of the names

	mu    sync.Mutex
	out   io.Writer
	err   io.Writer
	size  func() (width, height int) // of the terminal
	rows  []upRow
	drawn int // lines of the terminal that will be drawn anew
	frame int
}

// upRow is a session in the status view.
type upRow struct {
	name, target string
	stage        upStage
	detail       string
	since        time.Time
}

func newUpView(s streams, sessions []project.Session) *upView {
	v := &upView{ui: newProgress(s.err), out: s.out, err: s.err}
	v.size = func() (int, int) {
		width, height, err := term.GetSize(int(s.err.Fd()))
		if err != nil || width == 0 || height == 0 { // a terminal may not know its size
			return 80, 24
		}
		return width, height
	}
	v.addRows(sessions)
	return v
}

func (v *upView) addRows(sessions []project.Session) {
	for _, of := range sessions {
		target := of.Target.Text
		if of.Namespace != "" {
			target += " in " + of.Namespace
		}
		if of.Context != "" {
			target += " of " + of.Context
		}
		v.rows = append(v.rows, upRow{name: of.Name, target: target, stage: stageStarting, since: time.Now()})
		v.width = max(v.width, len([]rune(of.Name)))
	}
}

// ticks come when there is something to draw anew: on a terminal.
func (v *upView) ticks() *time.Ticker {
	tick := time.NewTicker(time.Second)
	if !v.ui.terminal {
		tick.Stop()
	}
	return tick
}

// set changes a session's row.
func (v *upView) set(name string, stage upStage, detail string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.rows {
		row := &v.rows[i]
		if row.name != name {
			continue
		}
		if row.stage != stage {
			row.since = time.Now()
		}
		row.stage, row.detail = stage, detail
	}
	v.eraseLocked()
	v.drawLocked()
}

// step is one that has ended: on a terminal the rows tell, but what failed is said.
func (v *upView) step(name string, s *upStep) {
	if v.ui.terminal && !s.Failed {
		return
	}
	v.say(name, v.ui.stepLine(s.Name, s.Detail, s.Failed, time.Duration(s.Microseconds)*time.Microsecond))
}

// say prints lines of ours about a session; about all without a name.
func (v *upView) say(name, text string) {
	v.print(v.err, name, []byte(strings.TrimRight(text, "\n")+"\n"))
}

// print prints whole lines.
func (v *upView) print(w io.Writer, name string, lines []byte) {
	var text bytes.Buffer
	for line := range bytes.Lines(lines) {
		text.WriteString(v.prefix(name))
		text.Write(bytes.TrimSuffix(line, []byte("\n")))
		if v.ui.color && bytes.IndexByte(line, '\x1b') >= 0 {
			text.WriteString("\x1b[0m") // a session's colours end with its line
		}
		text.WriteByte('\n')
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.eraseLocked()
	_, _ = w.Write(text.Bytes()) // nobody is left to tell
	v.drawLocked()
}

// nameColours are SGR codes of ECMA-48 that do not say good or bad.
var nameColours = [...]colour{"36", "35", "34", "96", "95", "94"}

func (v *upView) prefix(name string) string {
	if name == "" {
		return ""
	}
	text := pad(name, v.width) + " |"
	for i := range v.rows { // names are not changed
		if v.rows[i].name == name {
			text = v.ui.paint(nameColours[i%len(nameColours)], text)
		}
	}
	return text + " "
}

// close leaves the rows as they are.
func (v *upView) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drawn = 0
}

func (v *upView) draw() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frame++
	v.eraseLocked()
	v.drawLocked()
}

// eraseLocked goes up to the first row, and empties the terminal from there.
func (v *upView) eraseLocked() {
	if v.drawn > 0 {
		fmt.Fprintf(v.err, "\r\x1b[%dA\x1b[J", v.drawn)
	}
	v.drawn = 0
}

func (v *upView) drawLocked() {
	if !v.ui.terminal {
		return
	}
	width, height := v.size()
	lines := v.screenLocked(width, height, time.Now())
	fmt.Fprint(v.err, strings.Join(lines, "\n")+"\n")
	v.drawn = len(lines)
}

// screenLocked is the rows as they fit a terminal.
func (v *upView) screenLocked(width, height int, now time.Time) []string {
	shown := v.rows
	var more int
	if room := max(1, height-2); len(shown) > room {
		more = len(shown) - room + 1
		shown = shown[:room-1]
	}
	var lines []string
	for _, row := range shown {
		mark, code := spinFrames[v.frame%len(spinFrames)], colour("")
		switch row.stage {
		case stageSwapped:
			mark, code = "✓", green
		case stageFailed:
			mark, code = "✗", red
		case stageEnded:
			mark = "·"
		}
		what := string(row.stage)
		if row.detail != "" {
			what += ": " + row.detail
		}
		line := cut(fmt.Sprintf("%s %s  %6s  %s  %s", mark, pad(row.name, v.width), short(now.Sub(row.since).Truncate(time.Second)),
			pad(what, 18), row.target), width-1)
		if code != "" {
			line = v.ui.paint(code, mark) + strings.TrimPrefix(line, mark)
		}
		lines = append(lines, line)
	}
	if more > 0 {
		lines = append(lines, cut(fmt.Sprintf("… and %d more: `teleswap status`", more), width-1))
	}
	return lines
}

// cut shortens a text to a width in characters.
func cut(text string, width int) string {
	if runes := []rune(text); len(runes) > width && width > 0 {
		return string(runes[:width-1]) + "…"
	}
	return text
}

// upWriter takes a session's output, and gives whole lines on. It is one goroutine's.
type upWriter struct {
	view *upView
	name string
	to   io.Writer
	rest []byte // of a line
}

// longestLine is where a line without an end is broken.
const longestLine = 64 << 10

func (v *upView) writer(name string, stderr bool) *upWriter {
	w := &upWriter{view: v, name: name, to: v.out}
	if stderr {
		w.to = v.err
	}
	return w
}

// Write is io.Writer's; it fails never.
func (w *upWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	if end := bytes.LastIndexByte(w.rest, '\n'); end >= 0 {
		w.view.print(w.to, w.name, w.rest[:end+1])
		w.rest = append(w.rest[:0], w.rest[end+1:]...)
	}
	if len(w.rest) >= longestLine {
		w.flush()
	}
	return len(p), nil
}

// flush prints what has no end of line.
func (w *upWriter) flush() {
	if len(w.rest) > 0 {
		w.view.print(w.to, w.name, append(w.rest, '\n'))
		w.rest = nil
	}
}
