package session

import (
	"net/netip"
	"sync"
)

// hostName is the laptop's name in the sandbox, hostAddr the address that it has there: what is sent to it arrives at the
// laptop's own 127.0.0.1, or else [::1]. The address is of the IETF's block for protocol assignments (RFC 6890 section
// 2.2.2: 192.0.0.0/24), not assigned to anything, and not forwarded by any network: so no pod, Service, machine or
// office has it, as could happen with private addresses. 192.0.0.8 is netstack's.
const hostName = "host.teleswap.internal."

var hostAddr = netip.AddrFrom4([4]byte{192, 0, 0, 254})

// way is where a connection of the local process goes.
type way int

const (
	viaLaptop way = iota
	viaCluster
)

func (w way) String() string {
	if w == viaCluster {
		return "cluster"
	}
	return "laptop"
}

// routes decides the way by the destination alone.
type routes struct {
	Cluster []netip.Prefix // Service ranges, the pod's own subnets, the API server's Service address
	Own     []netip.Addr   // the laptop's own addresses
	Also    *Also          // what the user wants to go through the pod; nil: nothing
}

// carrierGrade is the shared address space of RFC 6598, which clouds give to pods.
var carrierGrade = netip.MustParsePrefix("100.64.0.0/10")

// choose is the route rule. fromLaptop says that only the laptop's resolver knew a name
// with this address.
//
// The cluster's own ranges come first: they may be public, and they may overlap the
// laptop's networks. Then what the laptop's resolver knew: a VPN's or an office's names
// are private addresses that the cluster cannot reach. Other private addresses are the
// cluster's: databases and machines of its network that pods reach by address.
func (r routes) choose(dst netip.Addr, fromLaptop bool) way {
	dst = dst.Unmap()
	if r.Also.has(dst) {
		return viaCluster
	}
	for _, p := range r.Cluster {
		if p.Contains(dst) {
			return viaCluster
		}
	}
	for _, own := range r.Own {
		if own.Unmap() == dst {
			return viaLaptop
		}
	}
	switch {
	case fromLaptop, dst.IsLoopback(), dst.IsLinkLocalUnicast(), dst.IsMulticast(), dst.IsUnspecified():
		return viaLaptop
	case dst.IsPrivate(), carrierGrade.Contains(dst):
		return viaCluster
	}
	return viaLaptop
}

// podSubnet guesses the range that a pod's address comes from: the customary size of
// one node's share. It only matters where pods have public addresses.
func podSubnet(pod netip.Addr) netip.Prefix {
	bits := 24
	if pod.Is6() {
		bits = 64
	}
	p, err := pod.Prefix(bits)
	if err != nil {
		return netip.PrefixFrom(pod, pod.BitLen())
	}
	return p
}

// answers remembers which addresses only the laptop's resolver knew.
type answers struct {
	mu         sync.Mutex
	fromLaptop map[netip.Addr]struct{}
	order      []netip.Addr // oldest first
}

// maxAnswers bounds the memory; the oldest go first.
const maxAnswers = 4096

// answered is called with each answer of the resolver.
func (a *answers) answered(fromLaptop bool, addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fromLaptop == nil {
		a.fromLaptop = make(map[netip.Addr]struct{})
	}
	for _, addr := range addrs {
		addr = addr.Unmap()
		_, known := a.fromLaptop[addr]
		switch {
		case !fromLaptop:
			delete(a.fromLaptop, addr) // what the pod's resolver knows is the cluster's to reach
		case !known:
			a.fromLaptop[addr] = struct{}{}
			a.order = append(a.order, addr)
		}
	}
	for len(a.order) > maxAnswers {
		delete(a.fromLaptop, a.order[0])
		a.order = a.order[1:]
	}
}

func (a *answers) laptopKnows(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.fromLaptop[addr.Unmap()]
	return known
}
