package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Route is one of the machine's, as its kernel has it.
type Route struct {
	Prefix netip.Prefix
	Device string
	// Kind is the device's as the kernel calls it (tuntap, bridge, wireguard, …); may be empty.
	Kind string
	// Dead routes lead nowhere (blackhole, unreachable, prohibit).
	Dead bool
}

// who says whose a route is, as far as its device tells.
func (r Route) who() string {
	if r.Dead {
		return "a route that leads nowhere"
	}
	name := func(prefix string) bool { return strings.HasPrefix(r.Device, prefix) }
	owner := ""
	switch {
	case name("docker"), name("br-") && r.Kind == "bridge":
		owner = "Docker"
	case name("podman"), name("cni-podman"):
		owner = "Podman"
	case name("virbr"):
		owner = "libvirt"
	case name("lxcbr"), name("lxdbr"), name("incusbr"):
		owner = "containers (LXC)"
	case name("tailscale"):
		owner = "Tailscale"
	case r.Kind == "wireguard", name("wg"):
		owner = "a VPN (WireGuard)"
	case r.Kind == "tuntap", r.Kind == "tun", name("tun"), name("tap"), name("ppp"), name("utun"), r.Kind == "ppp", r.Kind == "xfrm", r.Kind == "vti":
		owner = "a VPN"
	case name("cni"), name("flannel"), name("cali"), name("cilium"), name("kube"):
		owner = "a Kubernetes node's network"
	case r.Kind == "bridge":
		owner = "a bridge"
	default:
		owner = "this machine's network"
	}
	return fmt.Sprintf("%s, device %s", owner, r.Device)
}

// Conflict is a range of the cluster's that something else on the machine leads to.
type Conflict struct {
	Wanted netip.Prefix
	Route  Route
}

// String names both.
func (c Conflict) String() string {
	return fmt.Sprintf("%v of the cluster and %v (%s) overlap", c.Wanted, c.Route.Prefix, c.Route.who())
}

// Wish is what is to be reached, and what is there.
type Wish struct {
	// Ranges are the cluster's, Also further ones that are to go through it.
	Ranges, Also []netip.Prefix
	// Never are kept out of both: what the user says, and what the way to the cluster itself needs.
	Never []netip.Prefix
	// AllowConflicts lets the cluster have what somebody else has, too.
	AllowConflicts bool
	// Map are addresses that stand for those of the cluster that somebody else has; invalid: there are none.
	Map netip.Prefix
	// Routes are the machine's, but for those of devices of ours.
	Routes []Route
	// NoIPv6 says that the machine has none: ranges of it are left out.
	NoIPv6 bool
}

// Plan is what is done.
type Plan struct {
	// Routes are those to our device.
	Routes []netip.Prefix
	// Mapped are the cluster's addresses that others stand for; they are not routed.
	Mapped []netip.Prefix
	// Address is our device's own and Resolver our nameserver's beside it. Address6 is valid where a route is one of IPv6.
	Address, Address6 netip.Prefix
	Resolver          netip.Addr
	// Conflicts are those that were allowed.
	Conflicts []Conflict
}

// ConflictError says what stands in the way, and what can be done.
type ConflictError struct{ Conflicts []Conflict }

// Error implements error.
func (e *ConflictError) Error() string {
	var b strings.Builder
	b.WriteString("the cluster's addresses are in use on this machine; nothing was changed\n")
	for _, c := range e.Conflicts {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	first := e.Conflicts[0]
	fmt.Fprintf(&b, "--never-proxy %v leaves them to the other one, --allow-conflicts gives them to the cluster while it is connected,\n"+
		"--map 198.19.0.0/16 has the cluster's names lead to addresses of that range instead, which must be free", overlapOf(first))
	return b.String()
}

func overlapOf(c Conflict) netip.Prefix {
	if c.Wanted.Bits() > c.Route.Prefix.Bits() {
		return c.Wanted
	}
	return c.Route.Prefix
}

// MakePlan decides which routes there will be. The error is a *ConflictError, or says that an address is missing.
func MakePlan(w Wish) (Plan, error) {
	var p Plan
	if w.NoIPv6 {
		w.Ranges, w.Also = only4(w.Ranges), only4(w.Also)
	}
	wanted := merge(subtract(masked(slices.Concat(w.Ranges, w.Also)), masked(w.Never)))
	conflicts := conflictsOf(wanted, w.Routes)
	switch {
	case len(conflicts) == 0:
	case w.AllowConflicts:
		p.Conflicts = conflicts
		wanted = outdo(wanted, conflicts)
	case w.Map.IsValid():
		p.Conflicts = conflicts
		var taken []netip.Prefix
		for _, c := range conflicts {
			taken = append(taken, overlapOf(c))
		}
		left := subtract(wanted, taken)
		p.Mapped = merge(subtract(wanted, left))
		wanted = left
	default:
		return Plan{}, &ConflictError{conflicts}
	}
	if len(p.Mapped) > 0 {
		m := w.Map.Masked()
		if on := conflictsOf([]netip.Prefix{m}, w.Routes); len(on) > 0 {
			return Plan{}, fmt.Errorf("--map %v is not free: %s", m, on[0].Route.who())
		}
		wanted = merge(append(wanted, m))
	}
	p.Routes = wanted
	if slices.ContainsFunc(p.Routes, func(r netip.Prefix) bool { return r.Addr().Is6() }) {
		p.Address6 = ownAddress6()
	}
	var err error
	p.Address, p.Resolver, err = ownAddress(w, p.Routes)
	return p, err
}

// addresses are all of our device.
func (p *Plan) addresses() []netip.Prefix {
	if p.Address6.IsValid() {
		return []netip.Prefix{p.Address, p.Address6}
	}
	return []netip.Prefix{p.Address}
}

func only4(list []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// ownAddress6 is in a range that is unique as far as chance allows (RFC 4193).
func ownAddress6() netip.Prefix { return netip.MustParsePrefix("fd74:656c:6573:7761::1/126") }

// masked drops what prefixes say beyond their length, and invalid ones.
func masked(list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		if p.IsValid() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// conflictsOf finds the routes that overlap what is wanted. The default route, also one in halves as VPNs make it, is none of them:
// it leads to whatever else there is.
func conflictsOf(wanted []netip.Prefix, routes []Route) []Conflict {
	var found []Conflict
	for _, r := range routes {
		if r.Prefix.Bits() <= 1 {
			continue
		}
		for _, w := range wanted {
			if w.Overlaps(r.Prefix) {
				found = append(found, Conflict{w, r})
			}
		}
	}
	return found
}

// outdo makes what is wanted more specific than what else leads there: the kernel takes the longest prefix.
func outdo(wanted []netip.Prefix, conflicts []Conflict) []netip.Prefix {
	out := slices.Clone(wanted)
	for _, c := range conflicts {
		r := c.Route.Prefix
		if r.Bits() < c.Wanted.Bits() {
			continue // ours is longer already
		}
		if lower, upper, ok := halves(r); ok {
			out = append(out, lower, upper)
			out = slices.DeleteFunc(out, func(p netip.Prefix) bool { return p == r }) // there can be one route only
		}
	}
	slices.SortFunc(out, comparePrefix)
	return slices.Compact(out)
}

// halves cuts a prefix in two.
func halves(p netip.Prefix) (lower, upper netip.Prefix, ok bool) {
	bits := p.Bits() + 1
	if bits > p.Addr().BitLen() {
		return p, p, false
	}
	raw := p.Addr().AsSlice()
	raw[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
	second, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(second, bits), true
}

// subtract is what is in from and in none of what.
func subtract(from, what []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range from {
		out = append(out, without(p, what)...)
	}
	return out
}

func without(p netip.Prefix, what []netip.Prefix) []netip.Prefix {
	touched := false
	for _, w := range what {
		if !p.Overlaps(w) {
			continue
		}
		if w.Bits() <= p.Bits() {
			return nil
		}
		touched = true
	}
	if !touched {
		return []netip.Prefix{p}
	}
	lower, upper, _ := halves(p) // something in p is longer
	return append(without(lower, what), without(upper, what)...)
}

// merge drops what is in another, sorts, and joins halves.
func merge(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	for {
		slices.SortFunc(list, comparePrefix)
		var out []netip.Prefix
		for _, p := range list {
			if n := len(out); n > 0 && out[n-1].Overlaps(p) { // the wider one sorts first
				continue
			}
			out = append(out, p)
			for n := len(out); n > 1; n = len(out) {
				a, b := out[n-2], out[n-1]
				whole := netip.PrefixFrom(a.Addr(), max(a.Bits()-1, 0)).Masked()
				if a.Bits() != b.Bits() || a.Bits() == 0 || whole.Addr() != a.Addr() || !whole.Overlaps(b) {
					break
				}
				out = append(out[:n-2], whole)
			}
		}
		if slices.Equal(out, list) {
			return out
		}
		list = out
	}
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// ownRange is where our device's own addresses come from: RFC 2544's, which networks in service do not use.
func ownRange() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/16") }

// ownAddress finds four addresses that nobody uses.
func ownAddress(w Wish, ours []netip.Prefix) (netip.Prefix, netip.Addr, error) {
	const bits = 30
	addr := ownRange().Addr()
	for ownRange().Contains(addr) {
		p := netip.PrefixFrom(addr, bits)
		taken := func(q netip.Prefix) bool { return p.Overlaps(q) }
		if len(conflictsOf([]netip.Prefix{p}, w.Routes)) == 0 && !slices.ContainsFunc(ours, taken) &&
			!slices.ContainsFunc(w.Never, taken) && !slices.ContainsFunc(w.Ranges, taken) {
			host := addr.Next()
			return netip.PrefixFrom(host, bits), host.Next(), nil
		}
		raw := addr.As4()
		raw[2]++
		if raw[2] == 0 {
			break
		}
		addr = netip.AddrFrom4(raw)
	}
	return netip.Prefix{}, netip.Addr{}, fmt.Errorf("no address in %v is free for this machine's end", ownRange())
}
