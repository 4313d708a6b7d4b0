package warden

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

const (
	tunDevice = "/dev/net/tun"
	// queueLength is how many packets the kernel keeps for the daemon before it drops one: a drop costs a retransmission.
	queueLength = 20000
)

// Machine is this machine.
func Machine() Effects {
	return Effects{MakeDevice: makeDevice, DeleteDevice: deleteDevice, Route: route, Listen: listen, Resolver: osdns.System()}
}

// makeDevice makes a TUN device that is not persistent.
func makeDevice(d Device) (*os.File, error) {
	// Not os.OpenFile: a device that has no interface yet cannot be polled, and the runtime would note that.
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	f := os.NewFile(uintptr(fd), tunDevice)
	ifr, err := unix.NewIfreq(d.Name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make network device %s: %w", d.Name, err), f.Close())
	}
	if err := configure(d); err != nil {
		return nil, errors.Join(fmt.Errorf("set up network device %s: %w", d.Name, err), f.Close())
	}
	return f, nil
}

func configure(d Device) error {
	link, err := netlink.LinkByName(d.Name)
	if err != nil {
		return err
	}
	v6 := false
	for _, p := range d.Addrs {
		v6 = v6 || p.Addr().Is6()
	}
	disable6 := "1" // no link-local address, and none of what machines say to each other by it
	if v6 {
		disable6 = "0"
	}
	// Where there is no such file, there is no IPv6.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+d.Name+"/disable_ipv6", []byte(disable6), 0)
	if err := errors.Join(netlink.LinkSetMTU(link, d.MTU), netlink.LinkSetTxQLen(link, queueLength), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	for _, p := range d.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else is on the device, so the address is usable at once
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %v: %w", p, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func deleteDevice(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete network device %s: %w", name, err)
	}
	return nil
}

func route(r Routes) error {
	link, err := netlink.LinkByName(r.Device)
	if err != nil {
		return fmt.Errorf("find network device %s: %w", r.Device, err)
	}
	for _, p := range r.Prefixes {
		err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(p), Protocol: unix.RTPROT_STATIC,
		})
		if err != nil {
			return fmt.Errorf("route %v to %s: %w", p, r.Device, err)
		}
	}
	return nil
}

// listen opens port 53 by UDP and TCP.
func listen(ctx context.Context, addr netip.Addr) ([]*os.File, error) {
	at := netip.AddrPortFrom(addr, 53).String()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp4", at)
	if err != nil {
		return nil, explainListen(err)
	}
	defer func() { _ = pc.Close() }()
	lis, err := lc.Listen(ctx, "tcp4", at)
	if err != nil {
		return nil, explainListen(err)
	}
	defer func() { _ = lis.Close() }()
	udp, err := pc.(*net.UDPConn).File()
	if err != nil {
		return nil, err
	}
	tcp, err := lis.(*net.TCPListener).File()
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return []*os.File{udp, tcp}, nil
}

// explainListen says what to do about a port that is taken.
func explainListen(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: another program listens on port 53 of all addresses (`sudo ss -lnp sport = :53` names it)\n"+
			"without a resolver of its own: `teleswap connect -- COMMAND`, or `teleswap connect --proxy`", err)
	}
	return err
}
