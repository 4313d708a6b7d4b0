package session

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver"
)

// names finds addresses as the C library does in the pod: /etc/hosts first, then the search domains of resolv.conf. It is for
// those who ask by name, where no process in a sandbox does it itself. It is safe for concurrent use.
type names struct {
	hosts  map[string][]netip.Addr // by canonical name
	resolv *dns.ClientConfig
	query  func(ctx context.Context, msg []byte) ([]byte, error)
	// system asks this laptop's own system, where it has no resolv.conf; nil: it has one, and query has asked there.
	system func(ctx context.Context, name string) ([]netip.Addr, error)
}

// lookup returns the addresses of a name, those of IPv4 first. The error is a *net.DNSError.
func (n *names) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if addrs := n.hosts[dns.CanonicalName(name)]; len(addrs) > 0 {
		return addrs, nil
	}
	failure := &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	for _, fqdn := range n.resolv.NameList(name) {
		addrs, err := n.ask(ctx, fqdn)
		if len(addrs) > 0 {
			return addrs, nil
		}
		if err != nil {
			failure = &net.DNSError{Err: err.Error(), Name: name, IsTemporary: true}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if n.system != nil {
		if addrs, err := n.system(ctx, name); err == nil && len(addrs) > 0 {
			return addrs, nil
		}
	}
	return nil, failure
}

// ask asks for both kinds of addresses at once.
func (n *names) ask(ctx context.Context, fqdn string) ([]netip.Addr, error) {
	var both sync.WaitGroup
	var found [2][]netip.Addr
	var errs [2]error
	for i, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		both.Go(func() { found[i], errs[i] = n.askFor(ctx, fqdn, kind) })
	}
	both.Wait()
	for _, err := range errs {
		if err != nil {
			return append(found[0], found[1]...), err
		}
	}
	return append(found[0], found[1]...), nil
}

func (n *names) askFor(ctx context.Context, fqdn string, kind uint16) ([]netip.Addr, error) {
	q := new(dns.Msg)
	q.SetQuestion(fqdn, kind)
	q.SetEdns0(dns.DefaultMsgSize, false)
	raw, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("%q is no name: %w", fqdn, err)
	}
	if raw, err = n.query(ctx, raw); err != nil {
		return nil, err
	}
	a := new(dns.Msg)
	if err := a.Unpack(raw); err != nil {
		return nil, fmt.Errorf("read the resolver's answer: %w", err)
	}
	if a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("the resolver says %s", dns.RcodeToString[a.Rcode])
	}
	return dnsresolver.Addresses(a), nil
}

// parseHosts reads a hosts file (hosts(5)). Lines that it does not understand say nothing.
func parseHosts(file []byte) map[string][]netip.Addr {
	hosts := map[string][]netip.Addr{}
	lines := bufio.NewScanner(bytes.NewReader(file))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = dns.CanonicalName(name)
			hosts[name] = append(hosts[name], addr.Unmap())
		}
	}
	return hosts
}
