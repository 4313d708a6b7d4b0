package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// pinger sends ICMP echoes by the kernel's own sockets for that (icmp(7)), which need no
// capability, only a group within net.ipv4.ping_group_range: container runtimes set that
// wide for a pod. The kernel fills in identifier and checksum, and hands us only what
// bears the identifier.
type pinger struct{ sequence atomic.Uint32 }

const (
	echoHeader = 8 // type, code, checksum (2), identifier (2), sequence (2): RFC 792, RFC 4443

	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// ping sends one echo and waits until ctx ends for its reply or an error about the way.
func (p *pinger) ping(ctx context.Context, to netip.Addr, payload []byte) error {
	conn, err := echoSocket(to)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	request, reply := byte(echoRequest4), byte(echoReply4)
	if to.Is6() {
		request, reply = echoRequest6, echoReply6
	}
	sequence := uint16(p.sequence.Add(1))
	packet := make([]byte, echoHeader, echoHeader+len(payload))
	packet[0] = request
	binary.BigEndian.PutUint16(packet[6:], sequence)
	if _, err := conn.Write(append(packet, payload...)); err != nil {
		return orContext(ctx, err)
	}
	answer := make([]byte, echoHeader)
	for {
		n, err := conn.Read(answer) // the rest of it is of no interest
		if err != nil {
			return orContext(ctx, err)
		}
		if n == echoHeader && answer[0] == reply && binary.BigEndian.Uint16(answer[6:]) == sequence {
			return nil
		}
	}
}

func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// echoSocket is a ping socket connected to an address, which is told the errors of the way.
func echoSocket(to netip.Addr) (net.Conn, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	var address unix.Sockaddr
	if to.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		address = &unix.SockaddrInet6{Addr: to.As16()}
	} else {
		address = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, noEchoSocket(err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer func() { _ = file.Close() }() // net has its own
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Connect(fd, address); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}

// noEchoSocket says what would have to be changed where the kernel gives no ping socket.
func noEchoSocket(err error) error {
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		groups, _ := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
		return fmt.Errorf("%w: the sysctl net.ipv4.ping_group_range of the pod (%q) leaves out the container's groups; set it in the pod's securityContext.sysctls, to \"0 2147483647\"",
			tunnel.ErrPingUnavailable, strings.Join(strings.Fields(string(groups)), " "))
	}
	return fmt.Errorf("%w: %w", tunnel.ErrPingUnavailable, err)
}
