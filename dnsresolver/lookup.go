package dnsresolver

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
)

// Names finds addresses as the C library does in the pod: /etc/hosts first, then the search domains of resolv.conf. It is for
// those who ask by name, where no process in a sandbox does it itself. It is safe for concurrent use.
type Names struct {
	// Hosts are those of a hosts file, by canonical name; see ParseHosts.
	Hosts map[string][]netip.Addr
	// Resolv is the resolv.conf, of which the search domains and ndots count.
	Resolv *dns.ClientConfig
	// Query asks one message.
	Query func(ctx context.Context, msg []byte) ([]byte, error)
	// System asks this laptop's own system, where it has no resolv.conf; nil: it has one, and Query has asked there.
	System func(ctx context.Context, name string) ([]netip.Addr, error)
}

// Lookup returns the addresses of a name, those of IPv4 first. The error is a *net.DNSError.
func (n *Names) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if addrs := n.Hosts[dns.CanonicalName(name)]; len(addrs) > 0 {
		return addrs, nil
	}
	failure := &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	for _, fqdn := range n.Resolv.NameList(name) {
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
	if n.System != nil {
		if addrs, err := n.System(ctx, name); err == nil && len(addrs) > 0 {
			return addrs, nil
		}
	}
	return nil, failure
}

// ask asks for both kinds of addresses at once.
func (n *Names) ask(ctx context.Context, fqdn string) ([]netip.Addr, error) {
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

func (n *Names) askFor(ctx context.Context, fqdn string, kind uint16) ([]netip.Addr, error) {
	q := new(dns.Msg)
	q.SetQuestion(fqdn, kind)
	q.SetEdns0(dns.DefaultMsgSize, false)
	raw, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("%q is no name: %w", fqdn, err)
	}
	if raw, err = n.Query(ctx, raw); err != nil {
		return nil, err
	}
	a := new(dns.Msg)
	if err := a.Unpack(raw); err != nil {
		return nil, fmt.Errorf("read the resolver's answer: %w", err)
	}
	if a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("the resolver says %s", dns.RcodeToString[a.Rcode])
	}
	return Addresses(a), nil
}

// ParseHosts reads a hosts file (hosts(5)). Lines that it does not understand say nothing.
func ParseHosts(file []byte) map[string][]netip.Addr {
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

// DialNames connects to HOST:PORT over network ("tcp" or "udp", with or without a 4 or 6): it looks HOST up, unless it is an
// address, and tries each address by dial. The error is the lookup's, or the first dial's; a *net.AddrError or *net.DNSError for
// an address that is none. Lookup is not called with an address.
func DialNames(
	network, address string, lookup func(host string) ([]netip.Addr, error), dial func(netip.AddrPort) (net.Conn, error),
) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := net.LookupPort(network, port)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	if addr, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{addr}
	} else if addrs, err = lookup(host); err != nil {
		return nil, err
	}
	var first error
	for _, a := range addrs {
		c, err := dial(netip.AddrPortFrom(a, uint16(number)))
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
