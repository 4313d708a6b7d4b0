package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/teleswap/teleswap/dnsresolver/serve"
)

const dnsPort = 53

// serveDNS opens port 53 of each nameserver.
func (s *Stack) serveDNS(ctx context.Context) error {
	for _, ns := range s.cfg.Nameservers {
		ns = ns.Unmap()
		queue := new(waiter.Queue)
		ep, terr := s.stack.NewEndpoint(udp.ProtocolNumber, networkOf(ns), queue)
		if terr != nil {
			return fmt.Errorf("open a socket for nameserver %v: %s", ns, terr)
		}
		if terr := ep.Bind(fullAddress(netip.AddrPortFrom(ns, dnsPort))); terr != nil {
			ep.Close()
			return fmt.Errorf("bind to nameserver %v: %s", ns, terr)
		}
		pc := gonet.NewUDPConn(queue, ep)
		forget, ok := s.keep(pc)
		if !ok || !s.spawn(func() { defer forget(); serve.Packets(ctx, pc, s.cfg.DNS, s.cfg.Logger) }) {
			_ = pc.Close()
			return net.ErrClosed
		}
	}
	return nil
}
