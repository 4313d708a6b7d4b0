package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// flowSilence ends a flow that carried nothing either way for so long.
	flowSilence = time.Minute
	// flowPatience is how long the first datagrams of a flow wait for somebody to take them.
	flowPatience = 2 * time.Second
	// maxFlows are open at a time in all; a new one takes the place of the longest silent.
	maxFlows = 2048
	// flowQueue datagrams of a flow wait to be read; more are dropped, as a socket does.
	flowQueue = 128
	// udpBuffer is asked of the kernel for the datagrams of a whole port.
	udpBuffer = 4 << 20
)

// bindUDPAll listens on a UDP port on all addresses of the pod. IPv4 and IPv6 have a socket each:
// so an answer can be sent from the very address that the client sent to.
func bindUDPAll(ctx context.Context, port uint16) ([]*net.UDPConn, error) {
	var conns []*net.UDPConn
	for _, network := range []string{"udp4", "udp6"} {
		var lc net.ListenConfig
		c, err := lc.ListenPacket(ctx, network, net.JoinHostPort("", strconv.Itoa(int(port))))
		if err != nil {
			if network == "udp6" && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)) {
				break // a pod without IPv6
			}
			for _, c := range conns {
				_ = c.Close()
			}
			return nil, err
		}
		conns = append(conns, c.(*net.UDPConn))
	}
	return conns, nil
}

// flows sorts the datagrams that arrive at the target's UDP ports into flows, one for each client
// and address, and takes each flow to whoever serves now. While the agent holds
// connections it drops datagrams: UDP may, and its clients ask again.
type flows struct {
	tunnel  deliverer
	log     *slog.Logger
	state   func() (mode, []netip.Addr, <-chan struct{}) // the router's
	arrived func()                                       // told of each new flow
	silence time.Duration

	wg sync.WaitGroup // one for each flow

	mu   sync.Mutex
	open map[flowKey]*flow
	next int // which of the originals is tried first
}

type flowKey struct {
	socket        *flowSocket
	local, remote netip.AddrPort
}

func newFlows(t deliverer, log *slog.Logger, state func() (mode, []netip.Addr, <-chan struct{}), arrived func()) *flows {
	return &flows{
		tunnel: t, log: log, state: state, arrived: arrived,
		silence: flowSilence, open: make(map[flowKey]*flow),
	}
}

// flowSocket is a socket of one of the target's ports.
type flowSocket struct {
	conn *net.UDPConn
	six  bool
	port uint16
	own  netip.Addr // its address, where it is bound to one
	// private says that the original pods have nothing at this port.
	private bool
}

func newFlowSocket(conn *net.UDPConn) (*flowSocket, error) {
	bound := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	s := &flowSocket{conn: conn, six: bound.Addr().Is6() && !bound.Addr().Is4In6(), port: bound.Port(), own: bound.Addr().Unmap()}
	_ = conn.SetReadBuffer(udpBuffer) // as far as the machine allows
	var err error
	if s.six {
		err = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst, true)
	} else {
		err = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the addresses that datagrams are sent to: %w", err)
	}
	return s, nil
}

// destination is the address that a datagram was sent to.
func (s *flowSocket) destination(oob []byte) netip.Addr {
	var ip net.IP
	if s.six {
		var m ipv6.ControlMessage
		if m.Parse(oob) == nil {
			ip = m.Dst
		}
	} else {
		var m ipv4.ControlMessage
		if m.Parse(oob) == nil {
			ip = m.Dst
		}
	}
	if a, ok := netip.AddrFromSlice(ip); ok {
		return a.Unmap()
	}
	return s.own
}

// send sends a datagram from one of the pod's addresses.
func (s *flowSocket) send(p []byte, local, remote netip.AddrPort) (int, error) {
	var oob []byte
	switch {
	case local.Addr().IsUnspecified() || local.Addr().IsMulticast():
	case s.six:
		oob = (&ipv6.ControlMessage{Src: local.Addr().AsSlice()}).Marshal()
	default:
		oob = (&ipv4.ControlMessage{Src: local.Addr().AsSlice()}).Marshal()
	}
	n, _, err := s.conn.WriteMsgUDPAddrPort(p, oob, remote)
	return n, err
}

// receive sorts a socket's datagrams until it is closed.
func (f *flows) receive(ctx context.Context, s *flowSocket) {
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		n, nOOB, _, remote, err := s.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// The error of an earlier answer (port unreachable), or of this machine.
			if !pause(ctx, time.Millisecond) {
				return
			}
			continue
		}
		remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
		local := netip.AddrPortFrom(s.destination(oob[:nOOB]), s.port)
		if fl := f.find(ctx, flowKey{socket: s, local: local, remote: remote}); fl != nil {
			fl.arrive(buf[:n])
		}
	}
}

// find returns the flow of a datagram, a new one if need be; nil where it is to be dropped.
func (f *flows) find(ctx context.Context, key flowKey) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.open[key]; fl != nil {
		return fl
	}
	m, originals, changed := f.state()
	if m == holding || m == handedOver && key.socket.private || ctx.Err() != nil {
		return nil
	}
	if len(f.open) >= maxFlows {
		f.evictLocked()
	}
	fl := newFlow(key)
	f.open[key] = fl
	f.next++
	first := f.next
	f.arrived()
	f.wg.Go(func() {
		f.serve(ctx, fl, m, originals, first, changed)
		_ = fl.Close()
		f.forget(fl)
	})
	return fl
}

// evictLocked ends the flow that has been silent longest.
func (f *flows) evictLocked() {
	var oldest *flow
	for _, fl := range f.open {
		if oldest == nil || fl.last().Before(oldest.last()) {
			oldest = fl
		}
	}
	delete(f.open, oldest.key)
	_ = oldest.Close()
}

func (f *flows) forget(fl *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[fl.key] == fl {
		delete(f.open, fl.key)
	}
}

// serve takes a flow to whoever serves, and returns when it is over: closed by who has it, silent,
// or with another mode that gives it to somebody else.
func (f *flows) serve(ctx context.Context, fl *flow, m mode, originals []netip.Addr, first int, changed <-chan struct{}) {
	var err error
	if m == handedOver {
		err = f.handOver(ctx, fl, originals, first)
	} else {
		deliverCtx, cancel := context.WithTimeout(ctx, flowPatience)
		err = f.tunnel.Deliver(deliverCtx, fl)
		cancel()
	}
	if err != nil {
		f.log.Debug("drop datagrams that nobody takes", "from", fl.key.remote, "to", fl.key.local, "error", err)
		return
	}
	ticker := time.NewTicker(f.silence / 8)
	defer ticker.Stop()
	for {
		select {
		case <-fl.closed:
			return
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if now.Sub(fl.last()) >= f.silence {
				fl.end() // whoever has it closes it
			}
		case <-changed:
			var to mode
			if to, _, changed = f.state(); to != m && (to == handedOver || m == handedOver) {
				f.forget(fl) // the next datagram begins a flow to the others
				fl.end()
			}
		}
	}
}

// handOver relays a flow to the port of one of the original pods, in goroutines of its own
// that end with the flow.
func (f *flows) handOver(ctx context.Context, fl *flow, originals []netip.Addr, first int) error {
	if len(originals) == 0 {
		return errors.New("no pod to hand over to")
	}
	to := netip.AddrPortFrom(originals[first%len(originals)], fl.key.local.Port())
	var d net.Dialer
	original, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return fmt.Errorf("hand over to %s: %w", to, err)
	}
	f.wg.Go(func() {
		defer func() {
			_ = fl.Close()
			_ = original.Close() // ends the other
		}()
		for {
			p, err := fl.ReadDatagram()
			if err != nil {
				return
			}
			if _, err := original.Write(p); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	})
	f.wg.Go(func() {
		defer func() { _ = fl.Close() }()
		buf := make([]byte, 1<<16)
		for {
			n, err := original.Read(buf)
			if err != nil { // port unreachable too: the next datagram tries another
				return
			}
			_, _ = fl.Write(buf[:n]) // one that cannot be sent is lost
		}
	})
	return nil
}

// wait waits for all flows; their context has ended.
func (f *flows) wait() { f.wg.Wait() }

var _ tunnel.DatagramReader = (*flow)(nil)
