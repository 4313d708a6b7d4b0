// Package warden is root's part of a laptop that is connected as a whole: a process that makes a network device, routes to it, opens
// port 53 on a loopback address and sets the resolver, and takes it all back. It decides nothing: it is told what to do as data, of
// few kinds, by the daemon of the user who called it, and refuses the rest. It keeps a record of its own, written and synced before
// each effect, by which it undoes when the daemon goes, and the next command when the warden itself was killed. It knows neither
// Kubernetes nor tunnels.
//
// What does not survive its holder needs no undo: the device is gone with its last descriptor, with it its addresses, its routes
// and what systemd-resolved was told of it. What remains is a resolv.conf, whose first nameserver then refuses at once.
package warden

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

// Order is one thing that a warden is asked to do: exactly one field is set.
type Order struct {
	Begin    *Begin        `json:",omitempty"`
	Device   *Device       `json:",omitempty"`
	Listen   *Listen       `json:",omitempty"`
	Routes   *Routes       `json:",omitempty"`
	Resolver *osdns.Change `json:",omitempty"`
	End      *End          `json:",omitempty"`
}

// Begin opens the record. Session is the session's id; About says for people what is connected to what.
type Begin struct{ Session, About string }

// Device is a network device of ours (TUN), with its addresses; the descriptor is the answer.
type Device struct {
	Name  string
	MTU   int // bytes
	Addrs []netip.Prefix
}

// Listen opens port 53 by UDP and TCP on an address of loopback; the two sockets are the answer, in that order.
type Listen struct{ Addr netip.Addr }

// Routes lead to the device.
type Routes struct {
	Device   string
	Prefixes []netip.Prefix
}

// End has everything undone; the warden's answer is its last word.
type End struct{}

const (
	minMTU, maxMTU = 1280, 65535
	maxPrefixes    = 4096
	// shortest are the widest ranges that are routed: no order may take the whole of the network.
	shortest4, shortest6 = 4, 8
)

// devices are the names that ours have.
func devices() *regexp.Regexp { return regexp.MustCompile(`^teleswap[0-9]{1,3}$`) }

// Check refuses an order that is none of these.
func (o Order) Check() error {
	kinds := 0
	for _, set := range []bool{o.Begin != nil, o.Device != nil, o.Listen != nil, o.Routes != nil, o.Resolver != nil, o.End != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return fmt.Errorf("an order has one kind, not %d", kinds)
	}
	switch {
	case o.Begin != nil:
		return o.Begin.check()
	case o.Device != nil:
		return o.Device.check()
	case o.Listen != nil:
		if a := o.Listen.Addr; !a.Is4() || !a.IsLoopback() || a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
			return fmt.Errorf("%v is no loopback address that could be ours", a)
		}
	case o.Routes != nil:
		return o.Routes.check()
	case o.Resolver != nil:
		if o.Resolver.Device != "" && !devices().MatchString(o.Resolver.Device) {
			return fmt.Errorf("device %q is not ours", o.Resolver.Device)
		}
		return o.Resolver.Check()
	}
	return nil
}

func (b *Begin) check() error {
	const maxText = 1000 // bytes
	if !regexp.MustCompile(`^[a-z0-9]{1,40}$`).MatchString(b.Session) || len(b.About) > maxText {
		return errors.New("a session has an id and few words")
	}
	return nil
}

func (d *Device) check() error {
	if !devices().MatchString(d.Name) {
		return fmt.Errorf("device %q is not ours", d.Name)
	}
	if d.MTU < minMTU || d.MTU > maxMTU {
		return fmt.Errorf("an MTU of %d bytes is not possible", d.MTU)
	}
	for _, p := range d.Addrs {
		a := p.Addr()
		if !p.IsValid() || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.Is4In6() || p.Bits() < 24 {
			return fmt.Errorf("%v is no address of a device of ours", p)
		}
	}
	return nil
}

func (r *Routes) check() error {
	if !devices().MatchString(r.Device) {
		return fmt.Errorf("device %q is not ours", r.Device)
	}
	if len(r.Prefixes) > maxPrefixes {
		return fmt.Errorf("%d routes, at most %d are possible", len(r.Prefixes), maxPrefixes)
	}
	for _, p := range r.Prefixes {
		a := p.Addr()
		shortest := shortest4
		if a.Is6() {
			shortest = shortest6
		}
		if !p.IsValid() || p != p.Masked() || a.Is4In6() || p.Bits() < shortest || a.IsLoopback() || a.IsMulticast() {
			return fmt.Errorf("%v is not routed to a device of ours", p)
		}
	}
	return nil
}
