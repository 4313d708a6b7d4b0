package netstack

import (
	"context"
	"errors"
	"math"
	"net"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/teleswap/teleswap/dnsresolver/serve"
	"github.com/teleswap/teleswap/proxy/relay"
)

// maxPending bounds the connections that wait for their dial. A SYN beyond it is dropped and comes again.
const maxPending = 1 << 14

// pendingSYN is a SYN that is not answered yet. packet is its start, which an ICMP error quotes.
type pendingSYN struct{ packet []byte }

// forwardTCP lets every SYN that no endpoint takes be answered by DialTCP.
func (s *Stack) forwardTCP(ctx context.Context) {
	// The limit is maxPending in takeSYN, which also knows what is under way.
	fwd := tcp.NewForwarder(s.stack, s.cfg.Buffer, math.MaxInt, func(r *tcp.ForwarderRequest) { s.answerSYN(ctx, r) })
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return s.takeSYN(fwd, id, pkt)
	})
}

// takeSYN hands a SYN to the forwarder, unless it is a repeated one. It returns false for what is no SYN.
func (s *Stack) takeSYN(fwd *tcp.Forwarder, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, repeated := s.pending[id]; repeated || s.closed || len(s.pending) >= maxPending {
		return true
	}
	s.pending[id] = &pendingSYN{packet: startOf(pkt)}
	s.wg.Add(1) // answerSYN's
	if !fwd.HandlePacket(id, pkt) {
		delete(s.pending, id)
		s.wg.Done()
		return false
	}
	return true
}

// startOf copies a packet's headers as far as an ICMP error quotes them.
func startOf(pkt *stack.PacketBuffer) []byte {
	p := append([]byte(nil), pkt.NetworkHeader().Slice()...)
	t := pkt.TransportHeader().Slice()
	return append(p, t[:min(len(t), originalBytes)]...)
}

// answerSYN dials for a process, answers its SYN by the outcome, and relays until both ends are done.
func (s *Stack) answerSYN(ctx context.Context, r *tcp.ForwarderRequest) {
	defer s.wg.Done()
	id := r.ID()
	src, dst := addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)
	if s.isNameserver(dst) {
		if c, err := s.accept(r); err == nil {
			serve.Conn(ctx, c, s.cfg.DNS, s.cfg.Logger)
		}
		return
	}
	out, err := s.cfg.DialTCP(ctx, src, dst)
	if err != nil {
		s.cfg.Logger.Debug("dial for the process failed", "dst", dst, "err", err)
		s.refuseSYN(r, err)
		return
	}
	forget, ok := s.keep(out)
	if !ok {
		relay.Reset(out)
		s.settle(r, false)
		return
	}
	defer forget()
	in, err := s.accept(r)
	if err != nil {
		s.cfg.Logger.Debug("process gave up while it was dialled for", "dst", dst, "err", err)
		relay.Reset(out)
		return
	}
	if err := relay.Relay(in, out); err != nil {
		s.cfg.Logger.Debug("outbound connection broke", "dst", dst, "err", err)
	}
}

// settle is done with a SYN: what is sent to the same addresses from now on is a new one.
func (s *Stack) settle(r *tcp.ForwarderRequest, reset bool) *pendingSYN {
	id := r.ID()
	r.Complete(reset)
	s.mu.Lock()
	defer s.mu.Unlock()
	syn := s.pending[id]
	delete(s.pending, id)
	return syn
}

// refuseSYN answers a SYN so that connect() fails with err's errno.
func (s *Stack) refuseSYN(r *tcp.ForwarderRequest, err error) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		s.settle(r, true)
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.Canceled):
		s.settle(r, false)
	default:
		syn := s.settle(r, false)
		s.send(unreachable(syn.packet, reasonOf(err)))
	}
}

// accept completes the handshake of a SYN.
func (s *Stack) accept(r *tcp.ForwarderRequest) (net.Conn, error) {
	id := r.ID()
	queue := new(waiter.Queue)
	ep, terr := r.CreateEndpoint(queue)
	s.settle(r, false)
	if terr != nil {
		return nil, errnoOf(terr)
	}
	return s.adopt(ep, queue, id)
}

// adopt makes a connection of an established endpoint, and puts it on the list.
func (s *Stack) adopt(ep tcpip.Endpoint, queue *waiter.Queue, id stack.TransportEndpointID) (net.Conn, error) {
	ep.SocketOptions().SetDelayOption(false)
	c := newConn(ep, queue, addrPort(id.LocalAddress, id.LocalPort), addrPort(id.RemoteAddress, id.RemotePort))
	forget, ok := s.keep(c)
	if !ok {
		_ = c.Reset()
		return nil, net.ErrClosed
	}
	c.onEnd(forget)
	return c, nil
}

// send writes a packet of our own making to the device. Errors are the device's end, which its reader sees too.
func (s *Stack) send(packet []byte) {
	if packet != nil {
		_ = s.cfg.Device.Write([][]byte{packet})
	}
}
