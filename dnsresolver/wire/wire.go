// Package wire takes DNS queries in, and makes the answers that need no records: what a resolver says to who asks
// otherwise than one question, or when it has nothing. It knows no names and no other resolver.
package wire

import (
	"encoding/binary"
	"errors"

	"github.com/miekg/dns"
)

// ErrNone is the error for bytes that are no DNS query, and so get no answer.
var ErrNone = errors.New("not a dns query")

// headerSize is that of a message, in bytes (RFC 1035 section 4.1.1).
const headerSize = 12

// Parse reads a query (RFC 1035). rcode is what it is to be answered with at once, by Reply; dns.RcodeSuccess: it asks one
// question. The error is ErrNone.
func Parse(msg []byte) (q *dns.Msg, rcode int, err error) {
	q = new(dns.Msg)
	if err := q.Unpack(msg); err != nil {
		if len(msg) < headerSize || q.Response {
			return nil, 0, ErrNone
		}
		return q, dns.RcodeFormatError, nil
	}
	switch {
	case q.Response:
		return nil, 0, ErrNone
	case q.Opcode != dns.OpcodeQuery:
		return q, dns.RcodeNotImplemented, nil
	case len(q.Question) != 1:
		return q, dns.RcodeFormatError, nil
	}
	return q, dns.RcodeSuccess, nil
}

// OwnSize is what we take by UDP, in bytes (RFC 6891 section 6.2.5's customary value).
const OwnSize = 1232

// Reply makes an answer without records to q, which is msg parsed. size is how many bytes we take by UDP, for who asks with EDNS
// (RFC 6891 section 6.2.5); 0 answers without EDNS. Where q could not be packed again, its header alone is answered.
func Reply(q *dns.Msg, msg []byte, rcode int, size uint16) ([]byte, error) {
	a := new(dns.Msg)
	a.SetRcode(q, rcode)
	a.RecursionAvailable = true
	if size > 0 && q.IsEdns0() != nil {
		a.SetEdns0(size, false)
	}
	if raw, err := a.Pack(); err == nil {
		return raw, nil
	}
	raw := make([]byte, headerSize)
	copy(raw, msg[:4])
	const response, recursionAvailable = 1 << 15, 1 << 7
	flags := binary.BigEndian.Uint16(raw[2:])
	flags = flags&0x7900 | response | recursionAvailable | uint16(rcode&0xf)
	binary.BigEndian.PutUint16(raw[2:], flags)
	return raw, nil
}
