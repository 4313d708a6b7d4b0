package socks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The bytes of RFC 1928 and RFC 1929.
const (
	version5     = 5
	passwordForm = 1 // the version of the negotiation of RFC 1929

	methodNone     = 0x00
	methodPassword = 0x02
	methodNobody   = 0xff

	commandConnect = 1

	kindIPv4 = 1
	kindName = 3
	kindIPv6 = 4
)

// reply is the answer to a request (RFC 1928 section 6).
type reply byte

const (
	replyDone        reply = 0
	replyFailed      reply = 1
	replyForbidden   reply = 2
	replyNetwork     reply = 3
	replyHost        reply = 4
	replyRefused     reply = 5
	replyCommand     reply = 7
	replyAddressKind reply = 8
)

var errNotAllowed = errors.New("wrong user or password")

// socks serves one SOCKS connection, and closes it.
func (s *Server) socks(ctx context.Context, c *peeked) error {
	defer func() { _ = c.Close() }()
	if err := s.greet(c); err != nil {
		return err
	}
	address, refused, err := readRequest(c.r)
	if err != nil {
		if refused != replyDone {
			_, _ = c.Write(refused.bytes())
		}
		return err
	}
	_ = c.SetReadDeadline(time.Time{})
	remote, err := s.Dial(ctx, "tcp", address)
	if err != nil {
		_, werr := c.Write(replyTo(err).bytes())
		return errors.Join(err, werr)
	}
	if _, err := c.Write(replyDone.bytes()); err != nil {
		return errors.Join(err, remote.Close())
	}
	s.join(ctx, c, remote)
	return nil
}

// greet agrees with the client on how it says who it is, and hears that.
func (s *Server) greet(c *peeked) error {
	methods, err := readCounted(c.r, 1)
	if err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	want := byte(methodNone)
	if s.needsPassword() {
		want = methodPassword
	}
	for _, m := range methods {
		if m != want {
			continue
		}
		if _, err := c.Write([]byte{version5, want}); err != nil {
			return err
		}
		if want == methodPassword {
			return s.hearPassword(c)
		}
		return nil
	}
	_, err = c.Write([]byte{version5, methodNobody})
	return errors.Join(errNotAllowed, err)
}

// hearPassword is the negotiation of RFC 1929.
func (s *Server) hearPassword(c *peeked) error {
	user, err := readCounted(c.r, 1)
	if err != nil {
		return fmt.Errorf("read the user's name: %w", err)
	}
	password, err := readCounted(c.r, 0)
	if err != nil {
		return fmt.Errorf("read the password: %w", err)
	}
	if s.knows(string(user), string(password)) {
		_, err := c.Write([]byte{passwordForm, 0})
		return err
	}
	_, err = c.Write([]byte{passwordForm, 1})
	return errors.Join(errNotAllowed, err)
}

// readCounted reads bytes that their number stands before, after skipping some.
func readCounted(r io.Reader, skip int) ([]byte, error) {
	head := make([]byte, skip+1)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	b := make([]byte, head[skip])
	_, err := io.ReadFull(r, b)
	return b, err
}

// readRequest reads what the client wants to be connected to. Where that is what we do not do, the reply says so.
func readRequest(r io.Reader) (address string, refused reply, err error) {
	head := make([]byte, 4) // version, command, reserved, kind of address
	if _, err := io.ReadFull(r, head); err != nil {
		return "", replyDone, fmt.Errorf("read the request: %w", err)
	}
	if head[0] != version5 {
		return "", replyFailed, fmt.Errorf("a request of version %d", head[0])
	}
	var host string
	switch head[3] {
	case kindIPv4, kindIPv6:
		raw := make([]byte, 4)
		if head[3] == kindIPv6 {
			raw = make([]byte, 16)
		}
		if _, err := io.ReadFull(r, raw); err != nil {
			return "", replyDone, fmt.Errorf("read the request's address: %w", err)
		}
		addr, _ := netip.AddrFromSlice(raw)
		host = addr.Unmap().String()
	case kindName:
		name, err := readCounted(r, 0)
		if err != nil {
			return "", replyDone, fmt.Errorf("read the request's name: %w", err)
		}
		if host = string(name); !isHost(host) {
			return "", replyHost, fmt.Errorf("%q is no name of a host", host)
		}
	default:
		return "", replyAddressKind, fmt.Errorf("an address of kind %d", head[3])
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", replyDone, fmt.Errorf("read the request's port: %w", err)
	}
	if head[1] != commandConnect {
		return "", replyCommand, fmt.Errorf("command %d, which is not CONNECT", head[1])
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), replyDone, nil
}

// isHost says whether a name may be one, so that nothing of an address's syntax is in it. (That of an IPv6 address may be.)
func isHost(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("[]/\\%@", r)
	})
}

// bytes are the reply as it travels. The address in it is that of a socket far away, of which the client could make
// nothing: zero, as RFC 1928 lets clients expect.
func (r reply) bytes() []byte { return []byte{version5, byte(r), 0, kindIPv4, 0, 0, 0, 0, 0, 0} }

// replyTo is the reply that says why a dial has failed.
func replyTo(err error) reply {
	var name *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return replyRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return replyNetwork
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return replyForbidden
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &name), isTimeout(err):
		return replyHost
	}
	return replyFailed
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &t) && t.Timeout()
}
