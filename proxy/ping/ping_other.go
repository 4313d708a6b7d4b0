//go:build !linux

package ping

import (
	"context"
	"net/netip"
)

// Echo sends one echo request: on Linux only so far.
func Echo(context.Context, netip.Addr, []byte) error { return ErrUnavailable }
