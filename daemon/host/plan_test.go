package host

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func route(prefix, device, kind string) Route {
	return Route{Prefix: netip.MustParsePrefix(prefix), Device: device, Kind: kind}
}

func TestMakePlan(t *testing.T) {
	cluster := prefixes("10.96.0.0/12", "10.244.0.0/16")
	usual := []Route{route("0.0.0.0/0", "eth0", ""), route("192.168.1.0/24", "eth0", "")}
	with := func(r ...Route) []Route { return append(slices.Clone(usual), r...) }
	for _, tc := range []struct {
		name   string
		wish   Wish
		want   []netip.Prefix // nil: refused
		mapped []netip.Prefix
		says   []string // what the refusal names
	}{
		{"nothing in the way", Wish{Ranges: cluster, Routes: usual}, cluster, nil, nil},
		{"a VPN takes the default route in halves", Wish{Ranges: cluster, Routes: with(route("0.0.0.0/1", "tun0", "tuntap"), route("128.0.0.0/1", "tun0", "tuntap"))}, cluster, nil, nil},
		{"a VPN has a wider range", Wish{Ranges: cluster, Routes: with(route("10.0.0.0/8", "tun0", "tuntap"))}, nil, nil, []string{"10.96.0.0/12", "10.0.0.0/8", "a VPN, device tun0", "--never-proxy", "--allow-conflicts", "--map"}},
		{"Docker has a part of it", Wish{Ranges: cluster, Routes: with(route("10.244.7.0/24", "br-0123456789ab", "bridge"))}, nil, nil, []string{"10.244.0.0/16", "10.244.7.0/24", "Docker, device br-0123456789ab"}},
		{"Docker has the same", Wish{Ranges: cluster, Routes: with(route("10.244.0.0/16", "docker0", "bridge"))}, nil, nil, []string{"Docker, device docker0", "--never-proxy 10.244.0.0/16"}},
		{"both conflicts are named", Wish{Ranges: cluster, Routes: with(route("10.100.0.0/16", "wg0", "wireguard"), route("10.244.1.0/24", "virbr0", "bridge"))}, nil, nil, []string{"WireGuard", "libvirt"}},
		{"left to the other one", Wish{Ranges: cluster, Never: prefixes("10.244.0.0/16"), Routes: with(route("10.244.0.0/16", "docker0", "bridge"))}, prefixes("10.96.0.0/12"), nil, nil},
		{"a part is left", Wish{Ranges: prefixes("10.244.0.0/16"), Never: prefixes("10.244.128.0/17"), Routes: with(route("10.244.200.0/24", "docker0", "bridge"))}, prefixes("10.244.0.0/17"), nil, nil},
		{"the cluster wins over a wider range", Wish{Ranges: cluster, AllowConflicts: true, Routes: with(route("10.0.0.0/8", "tun0", "tuntap"))}, cluster, nil, nil},
		{"and over one within", Wish{Ranges: prefixes("10.244.0.0/16"), AllowConflicts: true, Routes: with(route("10.244.7.0/24", "tun0", "tuntap"))}, prefixes("10.244.0.0/16", "10.244.7.0/25", "10.244.7.128/25"), nil, nil},
		{"and over the same", Wish{Ranges: prefixes("10.244.0.0/16"), AllowConflicts: true, Routes: with(route("10.244.0.0/16", "tun0", "tuntap"))}, prefixes("10.244.0.0/17", "10.244.128.0/17"), nil, nil},
		{"further ranges", Wish{Ranges: cluster, Also: prefixes("203.0.113.0/24", "10.97.0.0/16"), Routes: usual}, prefixes("10.96.0.0/12", "10.244.0.0/16", "203.0.113.0/24"), nil, nil},
		{"host bits, halves", Wish{Ranges: prefixes("10.96.0.1/24", "10.96.1.0/24"), Routes: usual}, prefixes("10.96.0.0/23"), nil, nil},
		{"the way to the cluster stays", Wish{Ranges: prefixes("10.96.0.0/30"), Never: prefixes("10.96.0.1/32"), Routes: usual}, prefixes("10.96.0.0/32", "10.96.0.2/31"), nil, nil},
		{
			"others stand for them",
			Wish{Ranges: cluster, Map: netip.MustParsePrefix("198.19.0.0/16"), Routes: with(route("10.244.0.0/16", "docker0", "bridge"))},
			prefixes("10.96.0.0/12", "198.19.0.0/16"), prefixes("10.244.0.0/16"), nil,
		},
		{
			"others stand for a part",
			Wish{Ranges: prefixes("10.244.0.0/16"), Map: netip.MustParsePrefix("198.19.0.0/16"), Routes: with(route("10.244.128.0/17", "docker0", "bridge"))},
			prefixes("10.244.0.0/17", "198.19.0.0/16"), prefixes("10.244.128.0/17"), nil,
		},
		{"what is to stand for them is taken", Wish{Ranges: cluster, Map: netip.MustParsePrefix("192.168.0.0/16"), Routes: with(route("10.244.0.0/16", "docker0", "bridge"))}, nil, nil, []string{"--map 192.168.0.0/16 is not free"}},
		{"a dead route", Wish{Ranges: cluster, Routes: with(Route{Prefix: netip.MustParsePrefix("10.96.0.0/16"), Dead: true})}, nil, nil, []string{"leads nowhere"}},
		{"IPv6", Wish{Ranges: prefixes("fd00:96::/112", "10.96.0.0/12"), Routes: with(route("fe80::/64", "eth0", ""))}, prefixes("10.96.0.0/12", "fd00:96::/112"), nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := MakePlan(tc.wish)
			if tc.want == nil {
				if err == nil {
					t.Fatalf("got %v, want a refusal", got.Routes)
				}
				for _, part := range tc.says {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q does not say %q", err, part)
					}
				}
				return
			}
			if err != nil || !slices.Equal(got.Routes, tc.want) || !slices.Equal(got.Mapped, tc.mapped) {
				t.Errorf("got %v (mapped %v), %v; want %v (mapped %v)", got.Routes, got.Mapped, err, tc.want, tc.mapped)
			}
			if !got.Address.Contains(got.Resolver) || got.Address.Addr() == got.Resolver {
				t.Errorf("address %v, resolver %v", got.Address, got.Resolver)
			}
		})
	}
}

func TestConflictIsFoundBeforeAnything(t *testing.T) {
	_, err := MakePlan(Wish{Ranges: prefixes("10.96.0.0/12"), Routes: []Route{route("10.96.0.0/12", "tun0", "tuntap")}})
	var conflict *ConflictError
	if !errors.As(err, &conflict) || len(conflict.Conflicts) != 1 {
		t.Errorf("%v", err)
	}
}

func TestOwnAddressAvoidsWhatIsThere(t *testing.T) {
	p, err := MakePlan(Wish{Ranges: prefixes("198.18.0.0/17"), Routes: []Route{route("198.18.128.0/24", "eth0", "")}})
	if err != nil || p.Address != netip.MustParsePrefix("198.18.129.1/30") || p.Resolver != netip.MustParseAddr("198.18.129.2") {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := MakePlan(Wish{Ranges: prefixes("198.18.0.0/15")}); err == nil {
		t.Error("all are taken, and one was found")
	}
}

// FuzzSubtract: an address is in the difference exactly when it is in the one and not in the other.
func FuzzSubtract(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0}, 8, []byte{10, 1, 2, 3}, 24, []byte{10, 1, 2, 9})
	f.Fuzz(func(t *testing.T, a []byte, abits int, b []byte, bbits int, c []byte) {
		from, ok1 := netip.AddrFromSlice(a)
		what, ok2 := netip.AddrFromSlice(b)
		probe, ok3 := netip.AddrFromSlice(c)
		if !ok1 || !ok2 || !ok3 || !from.Is4() || !what.Is4() || !probe.Is4() {
			t.Skip()
		}
		p, q := netip.PrefixFrom(from, abits).Masked(), netip.PrefixFrom(what, bbits).Masked()
		if !p.IsValid() || !q.IsValid() {
			t.Skip()
		}
		got := merge(subtract([]netip.Prefix{p}, []netip.Prefix{q}))
		in := slices.ContainsFunc(got, func(g netip.Prefix) bool { return g.Contains(probe) })
		if want := p.Contains(probe) && !q.Contains(probe); in != want {
			t.Errorf("%v without %v is %v: %v in it: %v", p, q, got, probe, in)
		}
	})
}
