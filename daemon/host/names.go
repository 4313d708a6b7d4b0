package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

const (
	defaultDomain = "cluster.local"
	// maxNamespaces bounds the domains that systemd-resolved is told for names of the form SERVICE.NAMESPACE; with more the search
	// domains have to do.
	maxNamespaces = 100
	// maxZones bounds those for names of addresses.
	maxZones = 64
)

// clusterDomain is the cluster's, by a pod's search domains: NAMESPACE.svc.DOMAIN, svc.DOMAIN, DOMAIN.
func clusterDomain(search []string) string {
	for _, s := range search {
		if domain, ok := strings.CutPrefix(strings.TrimSuffix(s, "."), "svc."); ok {
			return domain
		}
	}
	return defaultDomain
}

// clusterSearch are those search domains of a pod that are the cluster's own: the others its node has from elsewhere.
func clusterSearch(search []string) []string {
	domain := clusterDomain(search)
	var own []string
	for _, s := range search {
		s = strings.TrimSuffix(s, ".")
		if s == domain || strings.HasSuffix(s, "."+domain) {
			own = append(own, s)
		}
	}
	return own
}

// reverseZones are the domains in which the names of a range's addresses are; none where they would be too many.
func reverseZones(ranges []netip.Prefix) []string {
	var zones []string
	for _, p := range ranges {
		digit := 8 // bits of one label
		if p.Addr().Is6() {
			digit = 4
		}
		whole := (p.Bits() + digit - 1) / digit * digit // the labels that all addresses of a zone have
		if whole == 0 || 1<<(whole-p.Bits())+len(zones) > maxZones {
			continue
		}
		for addr := p.Masked().Addr(); p.Contains(addr); {
			zones = append(zones, zoneOf(addr, whole/digit, digit))
			next, ok := after(netip.PrefixFrom(addr, whole))
			if !ok {
				break
			}
			addr = next
		}
	}
	return zones
}

func zoneOf(addr netip.Addr, labels, digit int) string {
	var parts []string
	for i := range labels {
		b := addr.AsSlice()[i*digit/8]
		switch {
		case digit == 8:
			parts = append(parts, fmt.Sprint(b))
		case i%2 == 0:
			parts = append(parts, fmt.Sprintf("%x", b>>4))
		default:
			parts = append(parts, fmt.Sprintf("%x", b&0xf))
		}
	}
	slices.Reverse(parts)
	if digit == 8 {
		return strings.Join(parts, ".") + ".in-addr.arpa"
	}
	return strings.Join(parts, ".") + ".ip6.arpa"
}

// after is the first address behind a prefix.
func after(p netip.Prefix) (netip.Addr, bool) {
	raw := p.Addr().AsSlice()
	for bit := p.Bits() - 1; bit >= 0; bit-- {
		mask := byte(0x80 >> (bit % 8))
		raw[bit/8] ^= mask
		if raw[bit/8]&mask != 0 {
			addr, ok := netip.AddrFromSlice(raw)
			return addr, ok
		}
	}
	return netip.Addr{}, false
}

// changeOf is what is to be done to the machine's resolver.
func (c *Config) changeOf(choice osdns.Choice, server netip.Addr, device string, ranges []netip.Prefix) osdns.Change {
	change := osdns.Change{Way: choice.Way, Server: server, Device: device, Search: clusterSearch(c.Search)}
	if choice.Way == osdns.Plain || choice.Way == osdns.Resolvconf || choice.Way == osdns.NetworkManager {
		return change // all names come to us
	}
	change.Domains = append(change.Domains, clusterDomain(c.Search))
	if len(c.Namespaces) <= maxNamespaces {
		change.Domains = append(change.Domains, c.Namespaces...)
	}
	for _, name := range c.AlsoNames {
		change.Domains = append(change.Domains, strings.TrimSuffix(name, "."))
	}
	change.Domains = append(change.Domains, reverseZones(ranges)...)
	change.Domains = slices.DeleteFunc(change.Domains, func(d string) bool { return slices.Contains(change.Search, d) })
	return change
}
