package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes are this machine's, of all tables, but for local ones and those of devices of ours.
func Routes() ([]Route, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	byIndex := map[int]netlink.Link{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	var out []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// Without a table given the kernel's main one alone is told of; VPNs have others.
		list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		for _, r := range list {
			out = appendRoute(out, r, byIndex)
		}
	}
	return out, nil
}

func appendRoute(out []Route, r netlink.Route, links map[int]netlink.Link) []Route {
	if r.Table == unix.RT_TABLE_LOCAL || r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_MULTICAST || r.Type == unix.RTN_ANYCAST {
		return out
	}
	prefix, ok := prefixOf(r.Dst)
	if !ok {
		return out // the default route
	}
	route := Route{Prefix: prefix, Dead: r.Type == unix.RTN_BLACKHOLE || r.Type == unix.RTN_UNREACHABLE || r.Type == unix.RTN_PROHIBIT}
	indexes := []int{r.LinkIndex}
	for _, hop := range r.MultiPath {
		indexes = append(indexes, hop.LinkIndex)
	}
	for _, i := range indexes {
		if l := links[i]; l != nil {
			route.Device, route.Kind = l.Attrs().Name, l.Type()
			break
		}
	}
	if strings.HasPrefix(route.Device, devicePrefix) || route.Device == "lo" && !route.Dead {
		return out
	}
	return append(out, route)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones).Masked(), true
}
