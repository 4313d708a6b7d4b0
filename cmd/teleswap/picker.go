package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// picker is a list of which one is picked by keys: arrows (or Ctrl-P, Ctrl-N), letters that narrow the list, Enter, Ctrl-C.
type picker struct {
	all    []string
	typed  string
	shown  []int // indexes of what is left of all
	at     int   // in shown
	room   int   // how many fit
	escape []byte
}

// pickState is what a key did.
type pickState int

const (
	pickGoesOn pickState = iota
	pickDone
	pickLeft
)

func newPicker(all []string, room int) *picker {
	p := &picker{all: all, room: max(1, room)}
	p.narrow()
	return p
}

// narrow keeps what has the typed letters in it.
func (p *picker) narrow() {
	p.shown, p.at = p.shown[:0], 0
	for i, name := range p.all {
		if strings.Contains(strings.ToLower(name), strings.ToLower(p.typed)) {
			p.shown = append(p.shown, i)
		}
	}
}

// The sequences of ECMA-48 that arrow keys send, in both modes of a terminal.
var arrows = map[string]int{"\x1b[A": -1, "\x1bOA": -1, "\x1b[B": 1, "\x1bOB": 1}

// key takes one byte from the keyboard.
func (p *picker) key(b byte) pickState {
	if len(p.escape) > 0 || b == '\x1b' {
		p.escape = append(p.escape, b)
		if len(p.escape) < 3 {
			return pickGoesOn
		}
		p.move(arrows[string(p.escape)])
		p.escape = p.escape[:0]
		return pickGoesOn
	}
	switch {
	case b == 0x03 || b == 0x04: // Ctrl-C, Ctrl-D
		return pickLeft
	case b == '\r' || b == '\n':
		if len(p.shown) > 0 {
			return pickDone
		}
	case b == 0x10: // Ctrl-P
		p.move(-1)
	case b == 0x0e: // Ctrl-N
		p.move(1)
	case b == 0x7f || b == 0x08:
		p.typed = p.typed[:max(0, len(p.typed)-1)]
		p.narrow()
	case b > ' ' && b < 0x7f:
		p.typed += string(b)
		p.narrow()
	}
	return pickGoesOn
}

func (p *picker) move(by int) { p.at = max(0, min(len(p.shown)-1, p.at+by)) }

// picked is the index of what is picked.
func (p *picker) picked() int { return p.shown[p.at] }

// screen is the list as it is shown, with the picked one in sight.
func (p *picker) screen() []string {
	from := max(0, min(p.at-p.room/2, len(p.shown)-p.room))
	var lines []string
	for i := from; i < len(p.shown) && i < from+p.room; i++ {
		mark := "  "
		if i == p.at {
			mark = "> "
		}
		lines = append(lines, mark+p.all[p.shown[i]])
	}
	if len(p.shown) == 0 {
		lines = append(lines, "  nothing has "+p.typed+" in it")
	}
	return append(lines, fmt.Sprintf("  %d of %d; arrows, Enter, or type a part of the name: %s", len(p.shown), len(p.all), p.typed))
}

// pick has the user pick one of the names on the terminal.
func (a *app) pick(question string, names []string) (int, error) {
	old, err := term.MakeRaw(int(a.in.Fd()))
	if err != nil {
		return 0, fmt.Errorf("read keys: %w", err)
	}
	width, height, err := term.GetSize(int(a.err.Fd()))
	if err != nil || width == 0 || height == 0 { // a terminal may not know its size
		width, height = 80, 24
	}
	p := newPicker(names, height-3)
	fmt.Fprintf(a.err, "%s\r\n", question)
	state, err := runPicker(p, a.in, a.err, width)
	if err = errors.Join(err, term.Restore(int(a.in.Fd()), old)); err != nil {
		return 0, fmt.Errorf("read keys: %w", err)
	}
	if state == pickLeft {
		return 0, &exitError{status: signalStatus(syscall.SIGINT)}
	}
	fmt.Fprintf(a.err, "> %s\n", names[p.picked()])
	return p.picked(), nil
}

// runPicker draws the list after each key, and takes it away at the end.
func runPicker(p *picker, keys io.Reader, to io.Writer, width int) (pickState, error) {
	var one [1]byte
	for {
		lines := p.screen()
		for i := range lines {
			lines[i] = cut(lines[i], width-1)
		}
		fmt.Fprint(to, strings.Join(lines, "\r\n"))
		_, err := keys.Read(one[:])
		if up := len(lines) - 1; up > 0 {
			fmt.Fprintf(to, "\x1b[%dA", up)
		}
		fmt.Fprint(to, "\r\x1b[J")
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return pickLeft, nil
		}
		if err != nil {
			return pickLeft, err
		}
		if state := p.key(one[0]); state != pickGoesOn {
			return state, nil
		}
	}
}
