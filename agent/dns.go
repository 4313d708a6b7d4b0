package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// dnsHeader is the length of a message's header (RFC 1035 section 4.1.1).
	dnsHeader = 12
	// maxDNS is the longest message TCP's length prefix can announce.
	maxDNS = 1<<16 - 1
	// maxExchanges under way at a time; further ones wait.
	maxExchanges = 512
	// The defaults and limits of resolv.conf(5).
	defaultDNSTimeout  = 5 * time.Second
	defaultDNSAttempts = 2
	maxNameservers     = 3
	maxDNSTimeout      = 30
	maxDNSAttempts     = 5
)

// resolver asks the nameservers of resolv.conf as a stub resolver does: in order, each
// for its timeout, all of it as often as it says. Messages pass unread but for their
// header, EDNS and all.
type resolver struct {
	servers  []netip.AddrPort
	timeout  time.Duration
	attempts int
	slots    chan struct{}
}

func newResolver(resolvConf []byte) *resolver {
	r := &resolver{
		timeout: defaultDNSTimeout, attempts: defaultDNSAttempts,
		slots: make(chan struct{}, maxExchanges),
	}
	lines := bufio.NewScanner(bytes.NewReader(resolvConf))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil && len(r.servers) < maxNameservers {
				r.servers = append(r.servers, netip.AddrPortFrom(a, 53))
			}
		case "options":
			r.options(fields[1:])
		}
	}
	if len(r.servers) == 0 { // as resolv.conf(5) has it
		r.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return r
}

func (r *resolver) options(fields []string) {
	for _, f := range fields {
		name, text, _ := strings.Cut(f, ":")
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			continue
		}
		switch name {
		case "timeout":
			r.timeout = time.Duration(min(n, maxDNSTimeout)) * time.Second
		case "attempts":
			r.attempts = min(n, maxDNSAttempts)
		}
	}
}

// exchange asks one message. It returns the first answer that settles the question, else
// the last that came (SERVFAIL and the like), else an error.
func (r *resolver) exchange(ctx context.Context, msg []byte) ([]byte, error) {
	if len(msg) < dnsHeader || len(msg) > maxDNS {
		return nil, fmt.Errorf("a DNS message of %d bytes", len(msg))
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var last []byte
	err := errors.New("no attempt made")
	for range r.attempts {
		for _, server := range r.servers {
			var answer []byte
			answer, err = r.ask(ctx, server, msg)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				continue
			}
			if settles(answer) {
				return answer, nil
			}
			last = answer
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

// settles is false for SERVFAIL, NOTIMP and REFUSED: stub resolvers ask the next server.
func settles(answer []byte) bool {
	switch answer[3] & 0x0f {
	case 2, 4, 5:
		return false
	}
	return true
}

// ask asks one server once, by UDP, and by TCP what UDP truncated.
func (r *resolver) ask(ctx context.Context, server netip.AddrPort, msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	answer, err := askUDP(ctx, server, msg)
	if err == nil && answer[2]&0x02 != 0 { // TC
		if whole, terr := askTCP(ctx, server, msg); terr == nil {
			return whole, nil
		}
		// The truncated answer says so itself: better than none.
	}
	return answer, err
}

func askUDP(ctx context.Context, server netip.AddrPort, msg []byte) ([]byte, error) {
	conn, err := dialDNS(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.close()
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}
	buf := make([]byte, maxDNS)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], msg) {
			return bytes.Clone(buf[:n]), nil
		}
	}
}

func askTCP(ctx context.Context, server netip.AddrPort, msg []byte) ([]byte, error) {
	conn, err := dialDNS(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.close()
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	if _, err := conn.Write(append(framed, msg...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	if !answers(answer, msg) {
		return nil, fmt.Errorf("%s answered another question", server)
	}
	return answer, nil
}

// dnsConn is a connection that ends with a context.
type dnsConn struct {
	net.Conn
	stop func() bool
}

func dialDNS(ctx context.Context, network string, server netip.AddrPort) (*dnsConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return &dnsConn{Conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

func (c *dnsConn) close() {
	c.stop()
	_ = c.Close()
}

// answers reports whether a message is a response to msg: same id, same question (in
// any case, RFC 4343) where it repeats it.
func answers(answer, msg []byte) bool {
	if len(answer) < dnsHeader || !bytes.Equal(answer[:2], msg[:2]) || answer[2]&0x80 == 0 {
		return false
	}
	if binary.BigEndian.Uint16(answer[4:6]) == 0 { // some errors come without it
		return true
	}
	q := question(msg)
	return len(answer) >= dnsHeader+len(q) && bytes.EqualFold(answer[dnsHeader:dnsHeader+len(q)], q)
}

// question is the first question's bytes: its name, type and class.
func question(msg []byte) []byte {
	rest := msg[dnsHeader:]
	i := 0
	for i < len(rest) && rest[i] != 0 {
		i += 1 + int(rest[i])
	}
	return rest[:min(i+5, len(rest))]
}
