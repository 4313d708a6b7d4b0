package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownDevices begin like this.
const ownDevices = "teleswap"

// machineRoutes are the unicast routes of all tables, since a VPN mostly has one of its own (ip-rule(8)), but for the default ones
// and those of our own devices.
func machineRoutes() ([]Route, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list this machine's routes: %w", err)
	}
	names := map[int]string{}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list this machine's network devices: %w", err)
	}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []Route
	for _, r := range list {
		device := names[r.LinkIndex]
		if r.Dst == nil || r.Table == unix.RT_TABLE_LOCAL || r.Type != unix.RTN_UNICAST || strings.HasPrefix(device, ownDevices) {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		via, _ := netip.AddrFromSlice(r.Gw)
		out = append(out, Route{To: netip.PrefixFrom(addr.Unmap(), bits), Device: device, Via: via.Unmap()})
	}
	return out, nil
}
