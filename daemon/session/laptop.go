package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/proxy/procnet"
)

// loopbackPatience bounds a connect to the laptop's own loopback address: only a full backlog lets it wait.
const loopbackPatience = 5 * time.Second

// loopbacks are the addresses at which what listens on the laptop is looked for, in this order. What listens on all
// addresses does on these.
var loopbacks = []netip.Addr{loopback4, netip.IPv6Loopback()}

// laptop serves by what listens on the laptop itself, on 127.0.0.1 or else [::1]. The client's address cannot be shown: the
// process sees that of the loopback.
type laptop struct {
	// table lists the laptop's sockets; its error is fs.ErrNotExist where the system has no such list.
	table func() ([]procnet.Socket, error)
	// ports are tried by a connect each where there is no table, to see whether something listens.
	ports []int32
}

// Listening implements listens: all that listens on the laptop, whosoever it is.
func (l laptop) Listening() ([]procnet.Socket, error) {
	socks, err := l.table()
	if !errors.Is(err, fs.ErrNotExist) {
		return socks, err
	}
	for _, p := range l.ports {
		for _, a := range loopbacks {
			at := netip.AddrPortFrom(a, uint16(p))
			c, err := net.DialTimeout("tcp", at.String(), loopbackPatience)
			if err != nil {
				continue
			}
			_ = c.Close()
			socks = append(socks, procnet.Socket{Network: "tcp", Addr: at})
		}
	}
	return socks, nil
}

// DialTCP implements served.
func (l laptop) DialTCP(ctx context.Context, _, local netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: loopbackPatience}
	var first error
	for _, a := range loopbacks {
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, local.Port()).String())
		if err == nil {
			return c, nil
		}
		if first == nil { // [::1] may not even exist: that says less
			first = err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return nil, fmt.Errorf("connect to the laptop's port %d: %w", local.Port(), first)
}

// DialUDP implements served. Where the process listens is looked up, since no connect would tell.
func (l laptop) DialUDP(ctx context.Context, _, local netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	to, err := l.udpAddr(local.Port())
	if err != nil {
		return nil, err
	}
	return d.DialContext(ctx, "udp", netip.AddrPortFrom(to, local.Port()).String())
}

// udpAddr is the loopback address of who receives datagrams on a port. Without a table it is 127.0.0.1.
func (l laptop) udpAddr(port uint16) (netip.Addr, error) {
	socks, err := l.table()
	if errors.Is(err, fs.ErrNotExist) {
		return loopbacks[0], nil
	}
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range loopbacks {
		for _, s := range socks {
			if strings.HasPrefix(s.Network, "udp") && s.Addr.Port() == port && reaches(s, a) {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("nothing on the laptop receives datagrams on port %d: %w", port, syscall.ECONNREFUSED)
}

// reaches says whether what is sent to a loopback address arrives at a socket. Nearly all that are bound to [::] take IPv4 too.
func reaches(s procnet.Socket, loopback netip.Addr) bool {
	at := s.Addr.Addr()
	return at == loopback || at.IsUnspecified() && (at.Is6() || loopback.Is4())
}

// onLaptop is what serves on this laptop. ports are those that will be asked for.
func onLaptop(ports []int32) laptop {
	return laptop{table: func() ([]procnet.Socket, error) { return procnet.Listening("/proc") }, ports: ports}
}
