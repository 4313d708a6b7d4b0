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

// ErrNotHere says what there is instead.
var ErrNotHere = errors.New("a whole machine is connected on Linux only so far; `teleswap connect --proxy` works everywhere")

// Main says that there is no warden here.
func Main(_ context.Context, _ []string, stderr *os.File) int {
	fmt.Fprintln(stderr, "teleswap:", ErrNotHere)
	return 1
}

// Recover does nothing: nothing can have been left.
func Recover(context.Context) (Record, error) { return Record{}, nil }

// Listener receives wardens: none here.
type Listener struct{}

// ListenWardens makes one that waits for nobody.
func ListenWardens(string) (*Listener, error) { return &Listener{}, nil }

// Close does nothing.
func (*Listener) Close() error { return nil }

// Await says that there are none.
func (*Listener) Await(context.Context, string) (*Warden, error) { return nil, ErrNotHere }

// Warden is the daemon's end of one: none here.
type Warden struct{}

// Close does nothing.
func (*Warden) Close() error { return nil }
