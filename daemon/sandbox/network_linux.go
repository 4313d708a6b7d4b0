package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// device is the TUN's name: a pod's interface is called so nearly everywhere, and some programs ask for it by name.
	device = "eth0"
	// queueLength is how many packets the kernel keeps for the daemon before it drops one. A drop costs a
	// retransmission timeout, a packet's memory only as long as it waits: so it is far above what windows let in.
	queueLength = 20000
)

// setUpNetwork makes the TUN device with the pod's addresses and routes everything to it. The file is the device:
// what is written to it arrives in the sandbox.
func setUpNetwork(spec *Spec) (*os.File, error) {
	tun, err := makeTUN()
	if err != nil {
		return nil, err
	}
	if err := configure(spec); err != nil {
		_ = tun.Close()
		return nil, err
	}
	return tun, nil
}

func makeTUN() (*os.File, error) {
	// Not os.OpenFile: a device that has no interface yet cannot be polled, and the runtime would note that.
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainTUN(err)
	}
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		err = fmt.Errorf("make the sandbox's network device: %w", err)
		return nil, errors.Join(explainStart(err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunDevice), nil
}

// configure sets addresses, routes and sysctls in the sandbox's network namespace.
func configure(spec *Spec) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the sandbox's loopback: %w", err)
	}
	tun, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find the sandbox's network device: %w", err)
	}
	v4, v6 := families(spec.Addrs)
	setSysctls(v6)
	mtu := spec.MTU
	if mtu == 0 {
		mtu = DefaultMTU
	}
	for _, step := range []struct {
		does string
		do   func() error
	}{
		{"bring up loopback", func() error { return netlink.LinkSetUp(lo) }},
		{"set the MTU", func() error { return netlink.LinkSetMTU(tun, mtu) }},
		{"set the queue's length", func() error { return netlink.LinkSetTxQLen(tun, queueLength) }},
		{"bring up the device", func() error { return netlink.LinkSetUp(tun) }},
		{"set the pod's addresses", func() error { return addAddresses(tun, spec.Addrs) }},
		{"route IPv4 to the device", func() error { return addDefaultRoute(tun, v4, net.IPv4zero, net.CIDRMask(0, 32)) }},
		{"route IPv6 to the device", func() error { return addDefaultRoute(tun, v6, net.IPv6zero, net.CIDRMask(0, 128)) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("set up the sandbox's network: %s: %w", step.does, err)
		}
	}
	return nil
}

func families(addrs []netip.Prefix) (v4, v6 bool) {
	for _, p := range addrs {
		if p.Addr().Unmap().Is4() {
			v4 = true
		} else {
			v6 = true
		}
	}
	return v4, v6
}

func addAddresses(tun netlink.Link, addrs []netip.Prefix) error {
	for _, p := range addrs {
		ip := p.Addr().Unmap()
		addr := &netlink.Addr{
			IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())},
		}
		if ip.Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else is on the device, so the address is usable at once
		}
		if err := netlink.AddrAdd(tun, addr); err != nil {
			return fmt.Errorf("%v: %w", ip, err)
		}
	}
	return nil
}

func addDefaultRoute(tun netlink.Link, wanted bool, zero net.IP, mask net.IPMask) error {
	if !wanted {
		return nil
	}
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: tun.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       &net.IPNet{IP: zero, Mask: mask},
	})
}

// setSysctls sets what only makes some programs happier; where /proc/sys cannot be written (a container's may be
// read-only) the sandbox works without.
func setSysctls(v6 bool) {
	disable6 := "1"
	if v6 {
		disable6 = "0"
	}
	gid := os.Getegid()
	for _, s := range []struct{ name, value string }{
		{"ipv4/ip_unprivileged_port_start", "0"},                  // a pod's process may well listen on 80
		{"ipv4/ping_group_range", fmt.Sprintf("%d %d", gid, gid)}, // ping without set-uid
		{"ipv4/ping_group_range", "0 2147483647"},                 // also after a change of group, where all groups are mapped
		{"ipv4/icmp_ratelimit", "0"},                              // the daemon must hear at once that nobody takes a client's datagram
		{"ipv6/icmp/ratelimit", "0"},
		{"ipv4/conf/" + device + "/route_localnet", "1"}, // lets the daemon reach what listens on 127.0.0.1 only
		{"ipv4/conf/all/rp_filter", "0"},                 // clients' addresses are all over the world
		{"ipv4/conf/" + device + "/rp_filter", "0"},
		{"ipv6/conf/" + device + "/disable_ipv6", disable6}, // no link-local address: connect() is unreachable at once
	} {
		err := os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
	}
}
