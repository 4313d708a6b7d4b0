package project

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is something wrong at a place in a file: what, why, and what to do.
type Problem struct {
	File string
	At   Position
	Text string
}

// String is FILE:LINE:COLUMN: TEXT, which editors and terminals make a link of.
func (p Problem) String() string {
	if p.At.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.At.Line, p.At.Column, p.Text)
}

// Problems are all that is wrong with a file, in the file's order. It is an error of one line a problem.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// in puts a file's name on problems and sorts them. Nil where there are none.
func in(file string, found []Problem) error {
	if len(found) == 0 {
		return nil
	}
	for i := range found {
		found[i].File = file
	}
	slices.SortStableFunc(found, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.At.Line, b.At.Line), cmp.Compare(a.At.Column, b.At.Column))
	})
	return Problems(slices.Compact(found))
}
