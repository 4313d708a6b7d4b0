// Package stub asks one nameserver one question. It takes messages as bytes (RFC 1035) and reads of them what it must to
// know an answer for one; whom to ask, and what to make of the answer, is its callers' business.
package stub

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	// HeaderSize is a message's header in bytes (RFC 1035 section 4.1.1).
	HeaderSize = 12
	// MaxSize is the longest message that TCP's length prefix can announce (RFC 1035 section 4.2.2).
	MaxSize = 1<<16 - 1

	responseBit  = 0x80 // of the header's byte 2
	truncatedBit = 0x02 // likewise
	rcodeMask    = 0x0f // of the header's byte 3
)

// ErrSize is returned for what cannot be a message, by its length.
var ErrSize = errors.New("not the size of a dns message")

// Ask sends msg to server, HOST:PORT, by UDP, and by TCP where the answer was cut; where that fails the cut answer is
// returned, which says so itself. The end of ctx ends it: without one, it waits for ever. What does not answer msg is
// passed over: another id, another question, no response. The answer has a header at least.
// It is safe for concurrent use.
func Ask(ctx context.Context, server string, msg []byte) ([]byte, error) {
	if len(msg) < HeaderSize || len(msg) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrSize, len(msg))
	}
	answer, err := askUDP(ctx, server, msg)
	if err != nil || answer[2]&truncatedBit == 0 {
		return answer, err
	}
	if whole, err := askTCP(ctx, server, msg); err == nil {
		return whole, nil
	}
	return answer, nil
}

// RCode is an answer's response code (RFC 1035 section 4.1.1), without EDNS's further bits.
func RCode(answer []byte) int { return int(answer[3] & rcodeMask) }

func askUDP(ctx context.Context, server string, msg []byte) ([]byte, error) {
	c, stop, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := c.Write(msg); err != nil {
		return nil, err
	}
	buf := make([]byte, MaxSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		// Late answers to others and forged ones are passed over.
		if answers(buf[:n], msg) {
			return bytes.Clone(buf[:n]), nil
		}
	}
}

func askTCP(ctx context.Context, server string, msg []byte) ([]byte, error) {
	c, stop, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer stop()
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	if _, err := c.Write(append(framed, msg...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, answer); err != nil {
		return nil, err
	}
	if !answers(answer, msg) {
		return nil, fmt.Errorf("%s answered another question", server)
	}
	return answer, nil
}

// dial connects; stop closes the connection, and the end of ctx ends its reads and writes.
func dial(ctx context.Context, network, server string) (_ net.Conn, stop func(), _ error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server)
	if err != nil {
		return nil, nil, err
	}
	cancelled := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return c, func() {
		cancelled()
		_ = c.Close()
	}, nil
}

// answers reports whether a message is a response to msg, which has a header: same id, and same question where it
// repeats it.
func answers(answer, msg []byte) bool {
	if len(answer) < HeaderSize || !bytes.Equal(answer[:2], msg[:2]) || answer[2]&responseBit == 0 {
		return false
	}
	if binary.BigEndian.Uint16(answer[4:6]) == 0 { // some errors come without it
		return true
	}
	q := question(msg)
	return len(answer) >= HeaderSize+len(q) && sameQuestion(answer[HeaderSize:HeaderSize+len(q)], q)
}

// classAndType is what follows a question's name, in bytes.
const classAndType = 4

// question is the first question's bytes: its name, type and class.
func question(msg []byte) []byte {
	rest := msg[HeaderSize:]
	i := 0
	for i < len(rest) && rest[i] != 0 {
		i += 1 + int(rest[i])
	}
	return rest[:min(i+1+classAndType, len(rest))]
}

// sameQuestion compares questions of one length: names in any case of ASCII's letters (RFC 4343), and no other.
func sameQuestion(a, b []byte) bool {
	name := max(len(a)-classAndType, 0)
	for i := range name {
		if lower(a[i]) != lower(b[i]) { // a label's length, 63 at most, is below the letters
			return false
		}
	}
	return bytes.Equal(a[name:], b[name:])
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}
