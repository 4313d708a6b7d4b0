package agent

import (
	"bytes"
	"net"
)

// closeField tells an HTTP/1.1 client that the connection ends with this answer (RFC 9112,
// section 9.6). One more Connection field beside the server's own is part of the same list
// (RFC 9110, section 5.3).
const closeField = "Connection: close\r\n"

// lastAnswer splits the begin of an answer where closeField belongs. ok is false where p
// is not the begin of a final HTTP/1.1 answer with its whole status line: other protocols
// pass untouched.
//
// A pod that ends says so to its HTTP clients by this field; the agent, which relays bytes
// between a client and a server that knows of no end, says it in the server's place.
// Otherwise a connection that is never idle lasts until the grace is over, and is cut then.
func lastAnswer(p []byte) (statusLine, rest []byte, ok bool) {
	const begin = "HTTP/1.1 "
	if len(p) < len(begin)+3 || !bytes.HasPrefix(p, []byte(begin)) {
		return nil, nil, false
	}
	status := p[len(begin) : len(begin)+3]
	for _, digit := range status {
		if digit < '0' || digit > '9' {
			return nil, nil, false
		}
	}
	if status[0] == '1' { // not final: 101 is another protocol from here on
		return nil, nil, false
	}
	end := bytes.Index(p, []byte("\r\n"))
	if end < 0 {
		return nil, nil, false
	}
	return p[:end+2], p[end+2:], true
}

// withCloseField is lastAnswer for an answer in pieces. It returns b itself, and no extra bytes,
// where the field does not belong.
func withCloseField(b net.Buffers) (_ net.Buffers, extra int) {
	if len(b) == 0 {
		return b, 0
	}
	line, rest, ok := lastAnswer(b[0])
	if !ok {
		return b, 0
	}
	return append(net.Buffers{line, []byte(closeField), rest}, b[1:]...), len(closeField)
}
