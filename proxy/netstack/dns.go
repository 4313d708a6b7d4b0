package netstack

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	dnsPort = 53
	// maxQueries bounds the queries of one socket or connection that are under way; more wait in its buffer.
	maxQueries = 256
	// dnsIdle is how long a TCP connection to a nameserver may stay silent (RFC 7766 section 6.2.3 leaves it to us).
	dnsIdle = 60 * time.Second
)

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
		if !ok || !s.spawn(func() { defer forget(); s.serveDNSPackets(ctx, pc) }) {
			_ = pc.Close()
			return net.ErrClosed
		}
	}
	return nil
}

// serveDNSPackets answers datagrams until the socket is closed.
func (s *Stack) serveDNSPackets(ctx context.Context, pc *gonet.UDPConn) {
	var asked sync.WaitGroup
	defer asked.Wait()
	slots := make(chan struct{}, maxQueries)
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		query := append([]byte(nil), buf[:n]...)
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			answer, err := s.cfg.DNS(ctx, query)
			if err != nil {
				s.cfg.Logger.Debug("dns query failed", "err", err)
				return
			}
			_, _ = pc.WriteTo(truncate(query, answer), from)
		})
	}
}

// truncate makes answer fit into what the asker of query takes by UDP: 512 bytes (RFC 1035 section 2.3.4), or what its
// EDNS option says (RFC 6891 section 6.2.3).
func truncate(query, answer []byte) []byte {
	if len(answer) <= dns.MinMsgSize {
		return answer
	}
	var q, a dns.Msg
	if q.Unpack(query) != nil || a.Unpack(answer) != nil {
		return answer
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	if len(answer) <= size {
		return answer
	}
	a.Truncate(size)
	cut, err := a.Pack()
	if err != nil {
		return answer
	}
	return cut
}

// serveDNSConn answers the queries of one TCP connection (RFC 7766), which may be pipelined.
func (s *Stack) serveDNSConn(ctx context.Context, c net.Conn) {
	var (
		asked   sync.WaitGroup
		writing sync.Mutex
	)
	defer func() { _ = c.Close() }()
	defer asked.Wait()
	slots := make(chan struct{}, maxQueries)
	for {
		_ = c.SetReadDeadline(time.Now().Add(dnsIdle))
		query, err := readDNSMessage(c)
		if err != nil {
			return
		}
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			answer, err := s.cfg.DNS(ctx, query)
			if err != nil || len(answer) > dns.MaxMsgSize {
				s.cfg.Logger.Debug("dns query failed", "err", err)
				return
			}
			writing.Lock()
			defer writing.Unlock()
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		})
	}
}

// readDNSMessage reads one message with its length before it (RFC 1035 section 4.2.2).
func readDNSMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}
