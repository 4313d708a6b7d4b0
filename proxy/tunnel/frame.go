package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// The frames of a connection's stream, as SPEC.md section 4 gives them. This file is
// the only one that knows their bytes.

// kind is the first byte of a frame.
type kind byte

const (
	kindOpen     kind = 1  // laptop: dial this address
	kindOpened   kind = 2  // agent: the dial succeeded
	kindFailed   kind = 3  // agent: the dial failed
	kindPark     kind = 4  // laptop: this stream waits for an inbound connection
	kindArrived  kind = 5  // agent: here is one
	kindAccepted kind = 6  // laptop: the local process accepted it
	kindRefused  kind = 7  // laptop: it did not
	kindData     kind = 8  // both: bytes
	kindFin      kind = 9  // both: no more bytes from me (half-close)
	kindClose    kind = 10 // both: closed, I read no more either
	kindReset    kind = 11 // both: the connection was reset
)

func (k kind) String() string {
	names := [...]string{
		"", "OPEN", "OPENED", "FAILED", "PARK", "ARRIVED", "ACCEPTED", "REFUSED",
		"DATA", "FIN", "CLOSE", "RESET",
	}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", byte(k))
	}
	return names[k]
}

const (
	// frameHeader is kind (1 byte) and offset (8 bytes, big endian).
	frameHeader = 9
	// maxBody bounds what a receiver takes in one frame; we send less (busyFrame).
	maxBody = 1 << 20
	// maxText bounds the explanation that goes with a failure.
	maxText = 1024
)

var (
	errFrameShort      = errors.New("frame is cut short")
	errFrameLong       = errors.New("frame is too long")
	errFrameTrailing   = errors.New("frame has bytes to spare")
	errFrameKind       = errors.New("frame of unknown kind")
	errFrameUnexpected = errors.New("frame out of place")
	errFrameOffset     = errors.New("frame does not continue the byte count")
	errFrameAddress    = errors.New("frame has a malformed address")
	errFrameNetwork    = errors.New("frame names an unknown network")
	errFrameText       = errors.New("frame has an overlong text")
)

// putHeader writes a frame's header into the first frameHeader bytes of b.
func putHeader(b []byte, k kind, offset uint64) {
	b[0] = byte(k)
	binary.BigEndian.PutUint64(b[1:frameHeader], offset)
}

// parseHeader reads what putHeader wrote; bodyLen is what follows the header.
func parseHeader(b []byte, bodyLen int) (kind, uint64, error) {
	if len(b) < frameHeader {
		return 0, 0, errFrameShort
	}
	k, offset := kind(b[0]), binary.BigEndian.Uint64(b[1:frameHeader])
	switch {
	case k < kindOpen || k > kindReset:
		return 0, 0, fmt.Errorf("%w: %d", errFrameKind, k)
	case bodyLen > maxBody:
		return 0, 0, fmt.Errorf("%w: %s of %d bytes", errFrameLong, k, bodyLen)
	case bodyLen > 0 && (k == kindAccepted || k == kindFin || k == kindClose):
		return 0, 0, fmt.Errorf("%w: %s", errFrameTrailing, k)
	}
	return k, offset, nil
}

// counter holds one direction of a stream to its byte count: a frame's offset is the
// number of DATA bytes that went before it, so a lost or doubled frame is noticed, and
// a later version can say from where to go on.
type counter struct{ bytes uint64 }

// take verifies a received frame and counts it.
func (c *counter) take(k kind, offset uint64, bodyLen int) error {
	if offset != c.bytes {
		return fmt.Errorf("%w: %s at %d, want %d", errFrameOffset, k, offset, c.bytes)
	}
	if k == kindData {
		c.bytes += uint64(bodyLen)
	}
	return nil
}

// network of a connection, as it travels.
type network byte

const (
	networkTCP   network = 1
	networkUDP   network = 2 // a flow: each DATA is one datagram
	networkFiles network = 3 // the agent's SFTP server; no address
)

// addr is an end's address in the form that the network's connections have it.
func (n network) addr(a netip.AddrPort) net.Addr {
	if n == networkUDP {
		return net.UDPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(a)
}

func (n network) String() string {
	if n == networkUDP {
		return "udp"
	}
	return "tcp"
}

// maxDatagram is the most that a UDP datagram carries (RFC 768 over RFC 791: 65,535 less
// both headers; over IPv6 without jumbograms it is 20 bytes more, which nobody sends).
const maxDatagram = 65507

// openBody is OPEN's.
type openBody struct {
	stream  uint64
	network network
	address netip.AddrPort
}

func (o openBody) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, o.stream)
	b = append(b, byte(o.network))
	return appendAddrPort(b, o.address)
}

func parseOpen(b []byte) (openBody, error) {
	r := bodyReader{rest: b}
	o := openBody{stream: r.uint64(), network: r.network(), address: r.addrPort()}
	return o, r.end(kindOpen)
}

// openedBody is OPENED's: the two ends of the connection that the agent made.
type openedBody struct{ local, remote netip.AddrPort }

func (o openedBody) append(b []byte) []byte {
	return appendAddrPort(appendAddrPort(b, o.local), o.remote)
}

func parseOpened(b []byte) (openedBody, error) {
	r := bodyReader{rest: b}
	o := openedBody{local: r.addrPort(), remote: r.addrPort()}
	return o, r.end(kindOpened)
}

// parkBody is PARK's.
type parkBody struct{ stream uint64 }

func (p parkBody) append(b []byte) []byte { return binary.BigEndian.AppendUint64(b, p.stream) }

func parsePark(b []byte) (parkBody, error) {
	r := bodyReader{rest: b}
	p := parkBody{stream: r.uint64()}
	return p, r.end(kindPark)
}

// arrivedBody is ARRIVED's: the client's address, the one it dialled, and how many more
// connections wait at the agent for a parked stream.
type arrivedBody struct {
	network       network
	local, remote netip.AddrPort
	waiting       uint32
}

func (a arrivedBody) append(b []byte) []byte {
	b = append(b, byte(a.network))
	b = appendAddrPort(appendAddrPort(b, a.local), a.remote)
	return binary.BigEndian.AppendUint32(b, a.waiting)
}

func parseArrived(b []byte) (arrivedBody, error) {
	r := bodyReader{rest: b}
	a := arrivedBody{network: r.network(), local: r.addrPort(), remote: r.addrPort(), waiting: r.uint32()}
	return a, r.end(kindArrived)
}

// failureBody is that of FAILED, REFUSED and RESET.
type failureBody struct {
	code code
	text string // for people; cut to maxText bytes
}

func (f failureBody) append(b []byte) []byte {
	return append(append(b, byte(f.code)), f.text[:min(len(f.text), maxText)]...)
}

func parseFailure(k kind, b []byte) (failureBody, error) {
	if len(b) < 1 {
		return failureBody{}, fmt.Errorf("%w: %s", errFrameShort, k)
	}
	if len(b) > 1+maxText {
		return failureBody{}, fmt.Errorf("%w: %s", errFrameText, k)
	}
	return failureBody{code: code(b[0]), text: string(b[1:])}, nil
}

// appendAddrPort writes an address: its length (4 or 16), its bytes, the port. Zones do
// not travel: they mean nothing on the other machine.
func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap().AsSlice()
	b = append(b, byte(len(ip)))
	b = append(b, ip...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// bodyReader takes fields off a body; the first error stays.
type bodyReader struct {
	rest []byte
	err  error
}

func (r *bodyReader) next(n int) []byte {
	if r.err != nil || len(r.rest) < n {
		if r.err == nil {
			r.err = errFrameShort
		}
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *bodyReader) uint64() uint64 { return binary.BigEndian.Uint64(r.next(8)) }
func (r *bodyReader) uint32() uint32 { return binary.BigEndian.Uint32(r.next(4)) }

func (r *bodyReader) network() network {
	n := network(r.next(1)[0])
	if r.err == nil && (n < networkTCP || n > networkFiles) {
		r.err = fmt.Errorf("%w: %d", errFrameNetwork, n)
	}
	return n
}

func (r *bodyReader) addrPort() netip.AddrPort {
	size := int(r.next(1)[0])
	if r.err != nil {
		return netip.AddrPort{}
	}
	if size != 4 && size != 16 {
		r.err = fmt.Errorf("%w: of %d bytes", errFrameAddress, size)
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(r.next(size))
	if size == 16 && addr.Is4In6() {
		r.err = fmt.Errorf("%w: IPv4 in 16 bytes", errFrameAddress)
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(r.next(2)))
}

func (r *bodyReader) end(k kind) error {
	switch {
	case r.err != nil:
		return fmt.Errorf("%s: %w", k, r.err)
	case len(r.rest) > 0:
		return fmt.Errorf("%w: %s", errFrameTrailing, k)
	}
	return nil
}
