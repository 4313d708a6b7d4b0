package session

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver"
)

// Also are destinations that go through the pod whatever the rule says of them: prefixes, and names, of which each address that the
// pod's resolver answers with is one. It is safe for concurrent use; nil has none.
type Also struct {
	prefixes []netip.Prefix
	names    map[string]bool // lower case, with the root's dot

	mu    sync.Mutex
	addrs map[netip.Addr]struct{}
}

// ParseAlso reads prefixes, addresses and names.
func ParseAlso(texts []string) (*Also, error) {
	a := &Also{names: map[string]bool{}, addrs: map[netip.Addr]struct{}{}}
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		addr, addrErr := netip.ParseAddr(text)
		_, isName := dns.IsDomainName(text)
		switch {
		case err == nil:
			a.prefixes = append(a.prefixes, prefix.Masked())
		case addrErr == nil && addr.Zone() == "":
			a.prefixes = append(a.prefixes, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
		case isName && text != "" && !strings.ContainsAny(text, "/: "):
			a.names[strings.ToLower(dns.Fqdn(text))] = true
		default:
			return nil, fmt.Errorf("%q is no name, no address and no prefix", text)
		}
	}
	return a, nil
}

// has says whether dst goes through the pod.
func (a *Also) has(dst netip.Addr) bool {
	if a == nil {
		return false
	}
	for _, p := range a.prefixes {
		if p.Contains(dst) {
			return true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, named := a.addrs[dst]
	return named
}

// answered takes in what the pod's resolver says.
func (a *Also) answered(raw []byte) {
	if a == nil || len(a.names) == 0 {
		return
	}
	var msg dns.Msg
	if msg.Unpack(raw) != nil || len(msg.Question) != 1 || !a.names[strings.ToLower(msg.Question[0].Name)] {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range dnsresolver.Addresses(&msg) {
		if len(a.addrs) < maxAnswers {
			a.addrs[addr] = struct{}{}
		}
	}
}
