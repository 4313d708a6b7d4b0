//go:build !linux

package host

import (
	"context"

	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

// Prepared is a machine that was looked at: none here.
type Prepared struct {
	Plan   Plan
	Choice osdns.Choice
}

// Prepare says that a whole machine is connected on Linux only so far.
func Prepare(context.Context, Config) (*Prepared, error) { return nil, warden.ErrNotHere }

// Connect does nothing: nothing was prepared.
func (*Prepared) Connect(context.Context, *warden.Warden, Told) (*Connection, error) {
	return nil, warden.ErrNotHere
}

// Connection is a machine that is connected: none here.
type Connection struct{ Prepared }

// Done is never closed.
func (*Connection) Done() <-chan struct{} { return nil }

// Close does nothing.
func (*Connection) Close(context.Context) error { return nil }

// Changes are none.
func (*Connection) Changes() []string { return nil }

// Counts are none.
func (*Connection) Counts() (asked, cached int64) { return 0, 0 }
