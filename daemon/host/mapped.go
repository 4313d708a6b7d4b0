package host

import (
	"net/netip"
	"slices"
	"sync"
)

// mapped has addresses of one range stand for those of the cluster that somebody else on the machine has. Each is dealt out when it is
// first named in an answer, and stands for the same one until the end. It is safe for concurrent use; its zero value stands for nothing.
type mapped struct {
	from  netip.Prefix   // where they come from
	reals []netip.Prefix // those that others stand for

	mu      sync.Mutex
	next    netip.Addr
	virtual map[netip.Addr]netip.Addr
	real    map[netip.Addr]netip.Addr
}

func newMapped(from netip.Prefix, reals []netip.Prefix) *mapped {
	return &mapped{
		from: from.Masked(), reals: reals, next: from.Masked().Addr().Next(),
		virtual: map[netip.Addr]netip.Addr{}, real: map[netip.Addr]netip.Addr{},
	}
}

// toVirtual is what stands for an address; itself where nothing does, or none is left.
func (m *mapped) toVirtual(addr netip.Addr) netip.Addr {
	if !slices.ContainsFunc(m.reals, func(p netip.Prefix) bool { return p.Contains(addr) }) || addr.Is4() != m.from.Addr().Is4() {
		return addr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, known := m.virtual[addr]; known {
		return v
	}
	v := m.next
	if !m.from.Contains(v) || !m.from.Contains(v.Next()) && m.from.Bits() < m.from.Addr().BitLen()-1 {
		return addr // the last one of a range is for broadcasts
	}
	m.next = v.Next()
	m.virtual[addr], m.real[v] = v, addr
	return v
}

// toReal is what an address stands for; ok is false for one of the range that stands for none yet.
func (m *mapped) toReal(addr netip.Addr) (real netip.Addr, ok bool) {
	if !m.from.IsValid() || !m.from.Contains(addr) {
		return addr, true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	real, ok = m.real[addr]
	return real, ok
}
