package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/teleswap/teleswap/proxy/relay"
)

const (
	// maxFlows bounds the UDP flows of the processes. A further one ends that which was silent longest.
	maxFlows = 4096
	// flowIdle is how long a flow may be silent. Linux's conntrack, which a pod's datagrams to Services pass, forgets them
	// after 30 s, or 120 s once both sides have spoken.
	flowIdle = 60 * time.Second
	// questionIdle is the same for flows to port 53, which are mostly one question and one answer.
	questionIdle = 10 * time.Second
)

// pairOfAddrs is what no two flows share.
type pairOfAddrs struct{ src, dst netip.AddrPort }

// udpFlow is a flow that a process began.
type udpFlow struct {
	relay.Flow
	pairOfAddrs
	conn *udpConn
	// packet is the first datagram's start, which an ICMP error quotes.
	packet []byte
}

// forwardUDP lets every datagram that no endpoint takes begin a flow, which DialUDP dials for.
func (s *Stack) forwardUDP(ctx context.Context) {
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		s.takeDatagram(ctx, id, pkt)
		return true
	})
}

// takeDatagram begins a flow with its first datagram. The flow's socket takes in what follows while it is dialled for.
func (s *Stack) takeDatagram(ctx context.Context, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	f := &udpFlow{
		pairOfAddrs: pairOfAddrs{addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)},
		packet:      startOf(pkt),
	}
	if to := f.dst.Addr(); to.IsMulticast() || to == broadcast || to.IsUnspecified() {
		return // to many: no error is sent for these (RFC 1122 section 3.2.2), and no pod's leave its network
	}
	if s.cfg.DialUDP == nil {
		s.send(unreachable(f.packet, portUnreachable))
		return
	}
	f.Idle = flowIdle
	if f.dst.Port() == dnsPort {
		f.Idle = questionIdle
	}
	f.Touch()
	queue := new(waiter.Queue)
	ep, err := udp.NewForwarderRequest(s.stack, id, pkt).CreateEndpoint(queue)
	if err != nil {
		s.cfg.Logger.Debug("a datagram of the process was lost", "dst", f.dst, "err", err)
		return
	}
	f.conn = newUDPConn(ep, queue, f.dst, f.src)
	if !s.spawn(func() { s.serveFlow(ctx, f) }) {
		_ = f.conn.Close()
	}
}

// serveFlow dials for a flow, and carries its datagrams until it ends.
func (s *Stack) serveFlow(ctx context.Context, f *udpFlow) {
	defer func() { _ = f.conn.Close() }()
	done, ok := s.addFlow(f)
	if !ok {
		return
	}
	defer done()
	out, err := s.cfg.DialUDP(ctx, f.src, f.dst)
	if err == nil {
		forget, ok := s.keep(out)
		if !ok {
			_ = out.Close()
			return
		}
		defer forget()
		err = f.Relay(f.conn, out)
	}
	if err == nil {
		return
	}
	s.cfg.Logger.Debug("a flow of the process failed", "dst", f.dst, "err", err)
	_ = f.conn.Close() // what the process sends once it knows begins a new flow
	if !errors.Is(err, syscall.ETIMEDOUT) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		s.send(unreachable(f.packet, reasonOfFlow(err)))
	}
}

// reasonOfFlow is reasonOf for datagrams: only for these is a refusal told by ICMP.
func reasonOfFlow(err error) reason {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return portUnreachable
	}
	return reasonOf(err)
}

// addFlow counts a flow until done is called. It returns false when the stack is closed.
func (s *Stack) addFlow(f *udpFlow) (done func(), ok bool) {
	forget, ok := s.keep(f.conn)
	if !ok {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flows) >= s.maxFlows {
		s.endSilentFlowLocked()
	}
	s.flows[f.pairOfAddrs] = f
	return func() {
		forget()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.flows[f.pairOfAddrs] == f {
			delete(s.flows, f.pairOfAddrs)
		}
	}, true
}

// endSilentFlowLocked ends the flow that was silent longest.
func (s *Stack) endSilentFlowLocked() {
	var oldest *udpFlow
	for _, f := range s.flows {
		if oldest == nil || f.Used().Before(oldest.Used()) {
			oldest = f
		}
	}
	if oldest != nil {
		delete(s.flows, oldest.pairOfAddrs)
		s.cfg.Logger.Info("too many UDP flows: the one that was silent longest ends", "dst", oldest.dst)
		_ = oldest.conn.Close()
	}
}

// flowOf is the socket of the process's flow between two addresses, if there is one.
func (s *Stack) flowOf(key pairOfAddrs) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[key]; f != nil {
		return f.conn
	}
	return nil
}
