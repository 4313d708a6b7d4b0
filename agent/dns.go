package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/teleswap/teleswap/dnsresolver/stub"
)

const (
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
	if len(msg) < stub.HeaderSize || len(msg) > stub.MaxSize {
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
	switch stub.RCode(answer) {
	case 2, 4, 5:
		return false
	}
	return true
}

// ask asks one server once.
func (r *resolver) ask(ctx context.Context, server netip.AddrPort, msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return stub.Ask(ctx, server.String(), msg)
}
