package dnsresolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver/stub"
)

// tryTime is how long one nameserver has before the next is asked; all of them share the caller's time.
const tryTime = time.Second

// SystemExchanger asks the nameservers of a resolv.conf file (resolv.conf(5)) in their order, by UDP, then by TCP where
// the answer was cut. The file is read again when it changed. It is safe for concurrent use.
func SystemExchanger(resolvConfPath string) Exchanger {
	return &system{path: resolvConfPath}
}

// Servers asks nameservers, each HOST:PORT, in their order, as SystemExchanger does.
func Servers(servers ...string) Exchanger { return &system{servers: servers} }

type system struct {
	path string // empty: the servers are fixed

	mu      sync.Mutex
	changed time.Time // of the file when it was read
	size    int64
	servers []string // host:port
}

// Exchange implements Exchanger. It returns the first nameserver's answer, whatever it says, except that SERVFAIL and
// REFUSED make it ask the next one.
func (s *system) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	if len(msg) < stub.HeaderSize || len(msg) > stub.MaxSize {
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
		raw, err := stub.Ask(try, server, msg)
		cancel()
		switch {
		case err != nil:
			errs = append(errs, err)
		case stub.RCode(raw) == dns.RcodeServerFailure || stub.RCode(raw) == dns.RcodeRefused:
			last = raw
		default:
			return raw, nil
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, fmt.Errorf("ask the nameservers %v: %w", servers, errors.Join(errs...))
}

// nameservers reads the file, if it is not the one we have read already.
func (s *system) nameservers() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return s.servers, nil
	}
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
