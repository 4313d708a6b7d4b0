// Package netstack is a TCP/IP stack in user space between a device and functions: connections that the processes
// behind the device open are dialled by a function, and connections can be opened towards those processes under
// any client's address. It knows neither Kubernetes nor the tunnel.
//
// The stack owns every address of the world: each connection that leaves the device is answered in the name of the
// address that it was for. What a process sees of connect(2) is what Config.DialTCP returned.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tun"
)

const (
	nicID = 1
	// defaultBuffer holds what a connection may have under way in one direction. With less, bulk waits for the
	// relay's next turn; buffers are filled only as far as bytes are waiting.
	defaultBuffer = 1 << 20
	// timeWait is short because the device neither loses nor reorders: nothing old can come late.
	timeWait = 50 * time.Millisecond
	// abortInterval is how often Close aborts handshakes that began while it was aborting.
	abortInterval = 10 * time.Millisecond
)

// Config says what a Stack stands between.
type Config struct {
	// Device is where the packets come from and go to. The stack owns it: Close closes it.
	Device tun.Device
	// Addrs are the addresses of the processes behind the device: the pod's.
	Addrs []netip.Addr
	// DialTCP dials for a process: src is the address the process dials from, dst the one it wants. The
	// process's connect() waits for it, and then succeeds or fails with the same errno: ECONNREFUSED, EHOSTUNREACH,
	// ENETUNREACH, over IPv6 also EACCES; any other error counts as EHOSTUNREACH. On ETIMEDOUT nothing
	// is answered: no packet makes connect() say so, but the process's kernel does after its own patience, and each SYN
	// it repeats until then is a new DialTCP. ctx ends with the stack. The connection returned is closed by the stack.
	DialTCP func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error)
	// DialUDP dials a flow of datagrams for a process, with its first one; each Read and each Write of the connection is
	// one datagram. Where it fails, or Read or Write does, the process gets the ICMP error that makes its next call fail:
	// ECONNREFUSED is port unreachable, the rest as for DialTCP (which Linux tells only to sockets with IP_RECVERR).
	// ctx ends with the stack. The connection returned is closed by the stack: after 60 s of silence, or 10 s
	// at port 53. Nil: every datagram is answered with port unreachable.
	DialUDP func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error)
	// Ping sends one ICMP echo for a process and returns nil when its reply came; only then the process gets one. An errno
	// becomes the ICMP error that means it, as for DialTCP; nothing is answered on ETIMEDOUT and when ctx ends, after
	// 10 s. Nil: every echo is answered with "administratively prohibited".
	Ping func(ctx context.Context, dst netip.Addr, payload []byte) error
	// DialLoopback connects to a process that listens on dst, a loopback address, from behind the device: Linux takes no
	// packet for ::1 from one. network is tcp or udp. Nil: packets alone have to do, and what listens on ::1 only
	// is not reached.
	DialLoopback func(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error)
	// DNS answers one DNS message that was sent to port 53 of one of Nameservers, by UDP or TCP. Nil: such
	// traffic is treated as any other.
	DNS func(ctx context.Context, msg []byte) ([]byte, error)
	// Nameservers are the addresses whose port 53 is answered by DNS.
	Nameservers []netip.Addr
	// Buffer is how many bytes a connection may have under way in each direction. Zero: 1 MiB.
	Buffer int
	// Logger: nil discards.
	Logger *slog.Logger
}

func (c *Config) check() error {
	switch {
	case c.Device == nil:
		return errors.New("netstack: no device")
	case c.DialTCP == nil:
		return errors.New("netstack: no DialTCP")
	case c.DNS == nil && len(c.Nameservers) > 0:
		return errors.New("netstack: nameservers without DNS")
	}
	if c.Buffer <= 0 {
		c.Buffer = defaultBuffer
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Stack is a running stack. Its methods are safe for concurrent use.
type Stack struct {
	cfg    Config
	stack  *stack.Stack
	link   *link
	cancel context.CancelFunc // ends what DialTCP, DialUDP, Ping and DNS do for the stack
	pings  chan struct{}      // one for each ping under way
	wg     sync.WaitGroup     // goroutines that serve processes; Add under mu while !closed

	mu      sync.Mutex
	closed  bool
	pending map[stack.TransportEndpointID]*pendingSYN
	conns   map[*net.Conn]struct{} // open connections of both ends, to be reset by Close
	flows   map[pairOfAddrs]*udpFlow

	maxFlows int

	inMu sync.Mutex // before mu
	in   map[pairOfAddrs]*udpConn
}

// New starts a stack on cfg.Device, which is the stack's from then on: also when New fails.
func New(cfg Config) (*Stack, error) {
	if err := cfg.check(); err != nil {
		if cfg.Device != nil {
			_ = cfg.Device.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // the stack outlives the call, Close ends it
	s := &Stack{
		cfg: cfg, cancel: cancel,
		link:    newLink(cfg.Device, cfg.Logger),
		pending: make(map[stack.TransportEndpointID]*pendingSYN),
		conns:   make(map[*net.Conn]struct{}),
		flows:   make(map[pairOfAddrs]*udpFlow), maxFlows: maxFlows,
		in:    make(map[pairOfAddrs]*udpConn),
		pings: make(chan struct{}, maxPings),
	}
	s.link.echo = func(e echo) { s.ping(ctx, e) }
	s.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
			ipv6.NewProtocol,
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// start sets the stack's options, lets it answer, and attaches the device last.
func (s *Stack) start(ctx context.Context) error {
	if err := s.tune(); err != nil {
		return err
	}
	s.forwardTCP(ctx)
	s.forwardUDP(ctx)
	if err := s.stack.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("attach the device to the stack: %s", err)
	}
	for _, set := range []func(tcpip.NICID, bool) tcpip.Error{s.stack.SetPromiscuousMode, s.stack.SetSpoofing} {
		if err := set(nicID, true); err != nil {
			return fmt.Errorf("let the stack own every address: %s", err)
		}
	}
	s.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return s.serveDNS(ctx)
}

// tune sets the options of TCP. RACK stays off: without loss and reordering its timers only cost.
func (s *Stack) tune() error {
	sack := tcpip.TCPSACKEnabled(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	recovery := tcpip.TCPRecovery(0)
	// The buffers are as large as they may get from the start, so nothing is left to be moderated.
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: s.cfg.Buffer, Max: s.cfg.Buffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: s.cfg.Buffer, Max: s.cfg.Buffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &wait, &recovery, &moderate, &receive, &send} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set %T of the stack: %s", o, err)
		}
	}
	// UDP's: what comes while a flow is dialled for waits here.
	for _, o := range []any{
		tcpip.ReceiveBufferSizeOption{Min: 4 << 10, Default: s.cfg.Buffer, Max: s.cfg.Buffer},
		tcpip.SendBufferSizeOption{Min: 4 << 10, Default: s.cfg.Buffer, Max: s.cfg.Buffer},
	} {
		if err := s.stack.SetOption(o); err != nil {
			return fmt.Errorf("set %T of the stack: %s", o, err)
		}
	}
	return nil
}

// Close ends all connections, closes the device, and waits for all goroutines of the stack. It may be called twice.
func (s *Stack) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	open := make([]net.Conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, *c)
	}
	s.mu.Unlock()
	if again {
		s.wg.Wait()
		return nil
	}
	s.cancel()
	for _, c := range open {
		relay.Reset(c)
	}
	err := s.cfg.Device.Close()
	s.abortUntilQuiet()
	// Before Destroy: that waits for the reader too, but with a lock held which a packet just being delivered may need.
	s.link.Wait()
	s.stack.Destroy()
	return err
}

// abortUntilQuiet aborts endpoints until nobody serves one any more: a handshake that was about to begin when the
// stack was closed registers its endpoint after a first pass.
func (s *Stack) abortUntilQuiet() {
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		s.wg.Wait()
	}()
	tick := time.NewTicker(abortInterval)
	defer tick.Stop()
	for {
		s.stack.Close()
		select {
		case <-quiet:
			return
		case <-tick.C:
		}
	}
}

// keep puts an open connection on the list of those that Close resets, until forget. It returns false when the stack is
// closed.
func (s *Stack) keep(c net.Conn) (forget func(), ok bool) {
	key := &c // what DialTCP returns may not be comparable
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.conns[key] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, key)
	}, true
}

// spawn runs f in a goroutine that Close waits for, unless the stack is closed.
func (s *Stack) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// isNameserver says whether DNS answers what is sent to dst.
func (s *Stack) isNameserver(dst netip.AddrPort) bool {
	return dst.Port() == dnsPort && slices.Contains(s.cfg.Nameservers, dst.Addr())
}
