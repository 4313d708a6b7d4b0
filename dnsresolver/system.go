package dnsresolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// tryTime is how long one nameserver has before the next is asked; all of them share the caller's time.
const tryTime = time.Second

// SystemExchanger asks the nameservers of a resolv.conf file (resolv.conf(5)) in their order, by UDP, then by TCP where
// the answer was cut. The file is read again when it changed. It is safe for concurrent use.
func SystemExchanger(resolvConfPath string) Exchanger {
	return &system{path: resolvConfPath}
}

type system struct {
	path string

	mu      sync.Mutex
	changed time.Time // of the file when it was read
	size    int64
	servers []string // host:port
}

// Exchange implements Exchanger. It returns the first nameserver's answer, whatever it says, except that SERVFAIL and
// REFUSED make it ask the next one.
func (s *system) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	if len(msg) < headerSize {
		return nil, ErrNoQuery
	}
	servers, err := s.nameservers()
	if err != nil {
		return nil, err
	}
	var (
		last []byte
		errs []error
	)
	for i, server := range servers {
		try, cancel := ctx, context.CancelFunc(func() {})
		if i < len(servers)-1 {
			try, cancel = context.WithTimeout(ctx, tryTime)
		}
		raw, err := exchange(try, server, msg)
		cancel()
		switch {
		case err != nil:
			errs = append(errs, err)
		case rcode(raw) == dns.RcodeServerFailure || rcode(raw) == dns.RcodeRefused:
			last = raw
		default:
			return raw, nil
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, fmt.Errorf("ask the nameservers of %s: %w", s.path, errors.Join(errs...))
}

// nameservers reads the file, if it is not the one we have read already.
func (s *system) nameservers() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := os.Stat(s.path)
	if err != nil {
		return nil, fmt.Errorf("find the laptop's nameservers: %w", err)
	}
	if s.servers != nil && st.ModTime().Equal(s.changed) && st.Size() == s.size {
		return s.servers, nil
	}
	conf, err := dns.ClientConfigFromFile(s.path)
	if err != nil {
		return nil, fmt.Errorf("find the laptop's nameservers: %w", err)
	}
	servers := make([]string, 0, max(1, len(conf.Servers)))
	for _, host := range conf.Servers {
		servers = append(servers, net.JoinHostPort(host, conf.Port))
	}
	if len(servers) == 0 {
		servers = append(servers, net.JoinHostPort("127.0.0.1", conf.Port)) // resolv.conf(5)
	}
	s.servers, s.changed, s.size = servers, st.ModTime(), st.Size()
	return servers, nil
}

// exchange asks one nameserver.
func exchange(ctx context.Context, server string, msg []byte) ([]byte, error) {
	raw, err := exchangeUDP(ctx, server, msg)
	if err != nil || !truncated(raw) {
		return raw, err
	}
	if whole, err := exchangeTCP(ctx, server, msg); err == nil {
		return whole, nil
	}
	return raw, nil // the asker may try TCP too
}

func exchangeUDP(ctx context.Context, server string, msg []byte) ([]byte, error) {
	c, stop, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := c.Write(msg); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		// Late answers to others and forged ones are passed over.
		if n >= headerSize && buf[0] == msg[0] && buf[1] == msg[1] {
			return buf[:n:n], nil
		}
	}
}

func exchangeTCP(ctx context.Context, server string, msg []byte) ([]byte, error) {
	if len(msg) > dns.MaxMsgSize {
		return nil, ErrNoQuery
	}
	c, stop, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, raw); err != nil {
		return nil, err
	}
	if len(raw) < headerSize {
		return nil, errors.New("short answer")
	}
	return raw, nil
}

// dial connects; stop closes the connection, and so does the end of ctx.
func dial(ctx context.Context, network, server string) (net.Conn, func(), error) {
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

func truncated(raw []byte) bool { return raw[2]&0x02 != 0 }

func rcode(raw []byte) int { return int(raw[3] & 0x0f) }
