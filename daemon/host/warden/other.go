//go:build !linux

package warden

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Arg is the first argument by which this program is a warden.
const Arg = "__warden"

// errNotHere says what there is instead.
var errNotHere = errors.New("a whole machine is connected on Linux only so far; `teleswap connect --proxy` works everywhere")

// Main says that there is no warden here.
func Main(_ context.Context, _ []string, stderr *os.File) int {
	fmt.Fprintln(stderr, "teleswap:", errNotHere)
	return 1
}

// Recover does nothing: nothing can have been left.
func Recover(context.Context) (Record, error) { return Record{}, nil }
