package host

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

func TestReverseZones(t *testing.T) {
	for _, tc := range []struct {
		ranges []netip.Prefix
		first  string
		last   string
		n      int
	}{
		{prefixes("10.244.0.0/16"), "244.10.in-addr.arpa", "244.10.in-addr.arpa", 1},
		{prefixes("10.96.0.0/12"), "96.10.in-addr.arpa", "111.10.in-addr.arpa", 16},
		{prefixes("10.96.7.0/24", "10.96.8.4/31"), "7.96.10.in-addr.arpa", "5.8.96.10.in-addr.arpa", 3},
		{prefixes("fd00:96::/112"), "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa", "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa", 1},
		{prefixes("255.255.0.0/16"), "255.255.in-addr.arpa", "255.255.in-addr.arpa", 1},
		{prefixes("0.0.0.0/0", "10.0.0.0/9"), "", "", 0},
	} {
		got := reverseZones(tc.ranges)
		if len(got) != tc.n || tc.n > 0 && (got[0] != tc.first || got[len(got)-1] != tc.last) {
			t.Errorf("%v: %v", tc.ranges, got)
		}
	}
}

func TestChange(t *testing.T) {
	cfg := Config{
		Namespace: "shop", Namespaces: []string{"shop", "data"}, AlsoNames: []string{"db.corp.example."},
		Search: []string{"shop.svc.k8s.example", "svc.k8s.example", "k8s.example", "corp.example"},
	}
	server := netip.MustParseAddr("198.18.0.2")
	got := cfg.changeOf(osdns.Choice{Way: osdns.Resolved}, server, device, prefixes("10.244.0.0/16"))
	if want := []string{"shop.svc.k8s.example", "svc.k8s.example", "k8s.example"}; !slices.Equal(got.Search, want) {
		t.Errorf("search %v, want %v: the node's own domains are not the cluster's", got.Search, want)
	}
	if want := []string{"shop", "data", "db.corp.example", "244.10.in-addr.arpa"}; !slices.Equal(got.Domains, want) {
		t.Errorf("domains %v, want %v", got.Domains, want)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	if plain := cfg.changeOf(osdns.Choice{Way: osdns.Plain}, firstResolver(), device, nil); len(plain.Domains) > 0 || plain.Check() != nil {
		t.Errorf("%+v, %v", plain, plain.Check())
	}
}

func TestMapped(t *testing.T) {
	m := newMapped(netip.MustParsePrefix("198.19.0.0/29"), prefixes("10.244.0.0/16"))
	addr := netip.MustParseAddr
	if got := m.toVirtual(addr("10.96.0.1")); got != addr("10.96.0.1") {
		t.Errorf("one that is free stands for itself, not %v", got)
	}
	first := m.toVirtual(addr("10.244.0.9"))
	if first != addr("198.19.0.1") || m.toVirtual(addr("10.244.0.9")) != first {
		t.Errorf("got %v", first)
	}
	if real, ok := m.toReal(first); !ok || real != addr("10.244.0.9") {
		t.Errorf("back: %v, %v", real, ok)
	}
	if _, ok := m.toReal(addr("198.19.0.5")); ok {
		t.Error("one that stands for none")
	}
	seen := map[netip.Addr]bool{}
	for i := range 10 {
		seen[m.toVirtual(netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}))] = true
	}
	if len(seen) != 10 || seen[addr("198.19.0.7")] || seen[addr("198.19.0.0")] {
		t.Errorf("when none is left: %v", seen)
	}
}
