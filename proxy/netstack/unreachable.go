package netstack

import (
	"errors"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// originalBytes is how much of a packet's transport header an ICMP error quotes: enough for the ports and TCP's
// sequence number, which Linux checks (RFC 792, RFC 5927 section 4).
const originalBytes = 8

// reason is why a packet's destination cannot be reached, as the ICMP codes of both families.
type reason struct {
	v4 header.ICMPv4Code
	v6 header.ICMPv6Code
}

var (
	portUnreachable = reason{header.ICMPv4PortUnreachable, header.ICMPv6PortUnreachable}
	hostUnreachable = reason{header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable}
	netUnreachable  = reason{header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable}
	// prohibited is EACCES over IPv6. Over IPv4 no ICMP code means EACCES to Linux, it becomes EHOSTUNREACH.
	prohibited = reason{header.ICMPv4AdminProhibited, header.ICMPv6Prohibited}
)

// reasonOf tells which ICMP error makes a connect() fail with err's errno (Linux: net/ipv4/icmp.c, net/ipv6/icmp.c).
func reasonOf(err error) reason {
	switch {
	case errors.Is(err, syscall.ENETUNREACH):
		return netUnreachable
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return prohibited
	default:
		return hostUnreachable
	}
}

// unreachable makes the ICMP error that answers packet, which starts with its IP header, as if the packet's
// destination itself had sent it. It returns nil where packet is too short to be answered.
func unreachable(packet []byte, why reason) []byte {
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		return unreachable4(packet, why.v4)
	case header.IPv6Version:
		return unreachable6(packet, why.v6)
	default:
		return nil
	}
}

func unreachable4(packet []byte, code header.ICMPv4Code) []byte {
	if len(packet) < header.IPv4MinimumSize {
		return nil
	}
	orig := header.IPv4(packet)
	quoted := int(orig.HeaderLength()) + originalBytes
	if len(packet) < quoted {
		return nil
	}
	out := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize+quoted)
	ip := header.IPv4(out)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(out)),
		TTL:         64,
		Protocol:    uint8(header.ICMPv4ProtocolNumber),
		SrcAddr:     orig.DestinationAddress(),
		DstAddr:     orig.SourceAddress(),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp := header.ICMPv4(out[header.IPv4MinimumSize:])
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetCode(code)
	copy(icmp[header.ICMPv4MinimumSize:], packet[:quoted])
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return out
}

func unreachable6(packet []byte, code header.ICMPv6Code) []byte {
	quoted := header.IPv6MinimumSize + originalBytes
	if len(packet) < quoted {
		return nil
	}
	orig := header.IPv6(packet)
	out := make([]byte, header.IPv6MinimumSize+header.ICMPv6DstUnreachableMinimumSize+quoted)
	header.IPv6(out).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(out) - header.IPv6MinimumSize),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          64,
		SrcAddr:           orig.DestinationAddress(),
		DstAddr:           orig.SourceAddress(),
	})
	icmp := header.ICMPv6(out[header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6DstUnreachable)
	icmp.SetCode(code)
	copy(icmp[header.ICMPv6DstUnreachableMinimumSize:], packet[:quoted])
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp,
		Src:    orig.DestinationAddress(),
		Dst:    orig.SourceAddress(),
	}))
	return out
}
