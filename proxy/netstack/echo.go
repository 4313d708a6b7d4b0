package netstack

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// maxPings bounds the pings under way; further ones are lost.
	maxPings = 1024
	// pingTime is how long a reply is waited for. ping(8) counts one as lost after 10 s at the latest.
	pingTime = 10 * time.Second
)

// echo is an ICMP echo request.
type echo struct {
	packet []byte // whole, with its IP header
	icmp   int    // where the ICMP header begins in packet
	dst    netip.Addr
	// part is true for a fragment: its payload is not whole.
	part bool
}

// parseEcho tells whether a packet is an ICMP echo request. The stack owns every address and would answer each itself,
// which would be a lie: so none of them may reach it, nor the pieces of one.
func parseEcho(packet []byte) (echo, bool) {
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		return parseEcho4(packet)
	case header.IPv6Version:
		return parseEcho6(packet)
	default:
		return echo{}, false
	}
}

func parseEcho4(packet []byte) (echo, bool) {
	ip := header.IPv4(packet)
	if len(packet) < header.IPv4MinimumSize || ip.TransportProtocol() != header.ICMPv4ProtocolNumber {
		return echo{}, false
	}
	e := echo{packet: packet, icmp: int(ip.HeaderLength()), part: ip.More() || ip.FragmentOffset() > 0}
	e.dst, _ = netip.AddrFromSlice(ip.DestinationAddressSlice())
	if ip.FragmentOffset() > 0 {
		return e, true
	}
	if e.icmp < header.IPv4MinimumSize || len(packet) < e.icmp+header.ICMPv4MinimumSize {
		return echo{}, false
	}
	return e, header.ICMPv4(packet[e.icmp:]).Type() == header.ICMPv4Echo
}

func parseEcho6(packet []byte) (echo, bool) {
	if len(packet) < header.IPv6MinimumSize {
		return echo{}, false
	}
	ip := header.IPv6(packet)
	e := echo{packet: packet, icmp: header.IPv6MinimumSize}
	e.dst, _ = netip.AddrFromSlice(ip.DestinationAddressSlice())
	next := ip.TransportProtocol()
	if ip.NextHeader() == uint8(header.IPv6FragmentExtHdrIdentifier) && len(packet) > header.IPv6MinimumSize {
		e.part = true
		return e, packet[header.IPv6MinimumSize] == uint8(header.ICMPv6ProtocolNumber)
	}
	if next != header.ICMPv6ProtocolNumber || len(packet) < header.IPv6MinimumSize+header.ICMPv6EchoMinimumSize {
		return echo{}, false
	}
	return e, header.ICMPv6(packet[e.icmp:]).Type() == header.ICMPv6EchoRequest
}

// payload is what follows the echo's identifier and sequence number.
func (e echo) payload() []byte {
	const echoHeader = 8 // of both families
	return e.packet[min(e.icmp+echoHeader, len(e.packet)):]
}

// reply is the echo reply to e.
func (e echo) reply() []byte {
	out := append([]byte(nil), e.packet...)
	if header.IPVersion(out) == header.IPv6Version {
		ip, icmp := header.IPv6(out), header.ICMPv6(out[e.icmp:])
		src, dst := ip.SourceAddress(), ip.DestinationAddress()
		ip.SetSourceAddress(dst)
		ip.SetDestinationAddress(src)
		ip.SetHopLimit(64)
		icmp.SetType(header.ICMPv6EchoReply)
		icmp.SetChecksum(0)
		icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: dst, Dst: src}))
		return out
	}
	ip, icmp := header.IPv4(out), header.ICMPv4(out[e.icmp:])
	src, dst := ip.SourceAddress(), ip.DestinationAddress()
	ip.SetSourceAddress(dst)
	ip.SetDestinationAddress(src)
	ip.SetTTL(64)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp.SetType(header.ICMPv4EchoReply)
	icmp.SetChecksum(0)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return out
}

// ping has Config.Ping send what a process's echo request wants, and answers it by the outcome. It borrows e's packet.
func (s *Stack) ping(ctx context.Context, e echo) {
	switch {
	case e.part:
		// Larger than the device's packets, so larger than any network's. No host needs to take more than 576 bytes.
		s.cfg.Logger.Debug("a ping in pieces was not sent", "dst", e.dst)
		return
	case e.dst.IsMulticast() || e.dst == broadcast:
		return
	case s.cfg.Ping == nil:
		s.send(unreachable(e.packet, prohibited))
		return
	}
	select {
	case s.pings <- struct{}{}:
	default:
		return
	}
	e.packet = append([]byte(nil), e.packet...)
	if !s.spawn(func() { defer func() { <-s.pings }(); s.servePing(ctx, e) }) {
		<-s.pings
	}
}

func (s *Stack) servePing(ctx context.Context, e echo) {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	err := s.cfg.Ping(ctx, e.dst, e.payload())
	switch {
	case err == nil:
		s.send(e.reply())
	case ctx.Err() != nil, errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		// as from a host that is not there
	default:
		s.cfg.Logger.Debug("a ping of the process failed", "dst", e.dst, "err", err)
		s.send(unreachable(e.packet, reasonOf(err)))
	}
}
