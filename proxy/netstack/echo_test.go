package netstack

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/teleswap/teleswap/proxy/tun"
)

var podIP6 = netip.MustParseAddr("fd00::7")

// echoRequest is a ping of the pod to dst with a payload "hello".
func echoRequest(dst string) []byte {
	to, payload := netip.MustParseAddr(dst), []byte("hello")
	src := podIP
	if to.Is6() {
		src = podIP6
	}
	from, at := fullAddress(netip.AddrPortFrom(src, 0)).Addr, fullAddress(netip.AddrPortFrom(to, 0)).Addr
	if to.Is6() {
		p := make([]byte, header.IPv6MinimumSize+header.ICMPv6EchoMinimumSize, 64)
		p = append(p, payload...)
		header.IPv6(p).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(p) - header.IPv6MinimumSize), TransportProtocol: header.ICMPv6ProtocolNumber,
			HopLimit: 3, SrcAddr: from, DstAddr: at,
		})
		icmp := header.ICMPv6(p[header.IPv6MinimumSize:])
		icmp.SetType(header.ICMPv6EchoRequest)
		icmp.SetIdent(7)
		icmp.SetSequence(1)
		icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: from, Dst: at}))
		return p
	}
	p := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize, 64)
	p = append(p, payload...)
	header.IPv4(p).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(p)), TTL: 3, Protocol: uint8(header.ICMPv4ProtocolNumber), SrcAddr: from, DstAddr: at,
	})
	icmp := header.ICMPv4(p[header.IPv4MinimumSize:])
	icmp.SetType(header.ICMPv4Echo)
	icmp.SetIdent(7)
	icmp.SetSequence(1)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return p
}

// TestPingIsNoLie: the stack owns every address, but only who was there answers.
func TestPingIsNoLie(t *testing.T) {
	for _, c := range []struct {
		name, dst string
		err       error
		noPing    bool
		v4        header.ICMPv4Type
		v4code    header.ICMPv4Code
		v6        header.ICMPv6Type
		v6code    header.ICMPv6Code
	}{
		{name: "a reply", dst: "10.96.0.1", v4: header.ICMPv4EchoReply},
		{name: "no host", dst: "10.96.0.1", err: syscall.EHOSTUNREACH, v4: header.ICMPv4DstUnreachable, v4code: header.ICMPv4HostUnreachable},
		{name: "no network", dst: "10.96.0.1", err: &net.OpError{Err: syscall.ENETUNREACH}, v4: header.ICMPv4DstUnreachable, v4code: header.ICMPv4NetUnreachable},
		{name: "not allowed", dst: "10.96.0.1", err: syscall.EACCES, v4: header.ICMPv4DstUnreachable, v4code: header.ICMPv4AdminProhibited},
		{name: "nobody to ask", dst: "10.96.0.1", noPing: true, v4: header.ICMPv4DstUnreachable, v4code: header.ICMPv4AdminProhibited},
		{name: "IPv6: a reply", dst: "fd01::1", v6: header.ICMPv6EchoReply},
		{name: "IPv6: no host", dst: "fd01::1", err: syscall.EHOSTUNREACH, v6: header.ICMPv6DstUnreachable, v6code: header.ICMPv6AddressUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			theirs := pingStack(t, func(cfg *Config) {
				if c.noPing {
					return
				}
				cfg.Ping = func(_ context.Context, dst netip.Addr, payload []byte) error {
					if dst.String() != c.dst || string(payload) != "hello" {
						t.Errorf("pings %v with %q", dst, payload)
					}
					return c.err
				}
			})
			request := echoRequest(c.dst)
			if err := theirs.Write([][]byte{request}); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1500)
			n, err := theirs.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			reply := buf[:n]
			if header.IPVersion(request) == header.IPv6Version {
				icmp := header.ICMPv6(reply[header.IPv6MinimumSize:])
				if icmp.Type() != c.v6 || icmp.Code() != c.v6code || header.IPv6(reply).SourceAddress() != header.IPv6(request).DestinationAddress() {
					t.Errorf("replied %x", reply)
				}
				return
			}
			ip, icmp := header.IPv4(reply), header.ICMPv4(reply[header.IPv4MinimumSize:])
			if !ip.IsValid(n) || !ip.IsChecksumValid() || ip.SourceAddress() != header.IPv4(request).DestinationAddress() ||
				icmp.Type() != c.v4 || icmp.Code() != c.v4code || checksum.Checksum(icmp, 0) != 0xffff {
				t.Errorf("replied %x", reply)
			}
			if c.v4 == header.ICMPv4EchoReply && !bytes.Equal(icmp[4:], header.ICMPv4(request[header.IPv4MinimumSize:])[4:]) {
				t.Errorf("replied to another ping: %x", reply)
			}
		})
	}
}

// TestSilentPings: what nobody answers is not answered here, and ends with the stack.
func TestSilentPings(t *testing.T) {
	asked := make(chan netip.Addr, 4)
	theirs := pingStack(t, func(cfg *Config) {
		cfg.Ping = func(ctx context.Context, dst netip.Addr, _ []byte) error {
			asked <- dst
			switch dst {
			case netip.MustParseAddr("10.96.0.1"):
				<-ctx.Done()
				return ctx.Err()
			case netip.MustParseAddr("10.96.0.2"):
				return syscall.ETIMEDOUT
			}
			return nil
		}
	})
	piece := echoRequest("10.96.0.3")
	header.IPv4(piece).SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
	later := echoRequest("10.96.0.3")
	header.IPv4(later).SetFlagsFragmentOffset(0, 1480)
	for _, p := range [][]byte{
		echoRequest("10.96.0.1"), echoRequest("10.96.0.2"), piece, later, echoRequest("224.0.0.1"),
		echoRequest("255.255.255.255"), echoRequest("10.96.0.4"),
	} {
		if err := theirs.Write([][]byte{p}); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 1500)
	if _, err := theirs.Read(buf); err != nil {
		t.Fatal(err)
	}
	if from := header.IPv4(buf).SourceAddress().String(); from != "10.96.0.4" {
		t.Errorf("%s replied", from)
	}
	for range 3 {
		<-asked
	}
	if len(asked) > 0 {
		t.Errorf("also pinged %v", <-asked)
	}
}

// pingStack is a stack whose device's other end is the test's.
func pingStack(t *testing.T, config func(*Config)) tun.Device {
	t.Helper()
	ours, theirs := tun.Pair(1500)
	cfg := Config{
		Device: ours, Addrs: []netip.Addr{podIP, podIP6},
		DialTCP: func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
			return nil, errors.New("nobody is expected to dial")
		},
	}
	config(&cfg)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return theirs
}
