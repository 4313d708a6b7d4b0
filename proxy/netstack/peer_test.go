package netstack

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/teleswap/teleswap/proxy/tun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var podIP = netip.MustParseAddr("10.42.0.7")

// peer is the process's side: another stack at the other end of the device, which owns the pod's address.
type peer struct{ stack *stack.Stack }

// start connects a stack with cfg to a peer.
func start(t *testing.T, cfg Config) (*Stack, *peer) {
	t.Helper()
	ours, theirs := tun.Pair(1500)
	cfg.Device, cfg.Addrs = ours, []netip.Addr{podIP}
	if cfg.DialTCP == nil {
		cfg.DialTCP = func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
			return nil, errors.New("nobody is expected to dial")
		}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})}
	lnk := newLink(theirs, s.cfg.Logger)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		lnk.Wait() // the devices are a pair: closing one has closed both
		p.stack.Destroy()
	})
	if err := p.stack.CreateNIC(nicID, lnk); err != nil {
		t.Fatal(err)
	}
	if err := p.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol: header.IPv4ProtocolNumber, AddressWithPrefix: tcpip.AddrFromSlice(podIP.AsSlice()).WithPrefix(),
	}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	p.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	return s, p
}

func (p *peer) dial(t *testing.T, addr string) (*gonet.TCPConn, error) {
	t.Helper()
	return gonet.DialContextTCP(t.Context(), p.stack, fullAddress(netip.MustParseAddrPort(addr)), header.IPv4ProtocolNumber)
}

func (p *peer) listen(t *testing.T, port uint16) *gonet.TCPListener {
	t.Helper()
	lis, err := gonet.ListenTCP(p.stack, tcpip.FullAddress{Port: port}, header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		lis.Shutdown()
		_ = lis.Close()
	})
	return lis
}

// far is the end that DialTCP gave the stack, seen from the other side.
type far struct {
	net.Conn
	reset chan struct{} // closed when the stack reset its end
}

// nearConn is the stack's end of it.
type nearConn struct {
	net.Conn
	reset func()
}

func (c nearConn) Reset() error {
	c.reset()
	return c.Close()
}

func (c nearConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// dialled makes a DialTCP that gives one connection, and that connection's far end.
func dialled(t *testing.T) (func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error), <-chan far) {
	t.Helper()
	ends := make(chan far, 1)
	return func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = lis.Close() }()
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", lis.Addr().String())
		if err != nil {
			return nil, err
		}
		other, err := lis.Accept()
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = other.Close() })
		reset := make(chan struct{})
		ends <- far{other, reset}
		return nearConn{c, sync.OnceFunc(func() { close(reset) })}, nil
	}, ends
}

func wantLine(t *testing.T, c net.Conn, want string) {
	t.Helper()
	line, err := bufio.NewReader(io.LimitReader(c, int64(len(want)))).ReadString('\n')
	if err != nil || line != want {
		t.Fatalf("read %q, %v; want %q", line, err, want)
	}
}
