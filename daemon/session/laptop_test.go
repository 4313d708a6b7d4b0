package session

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/proxy/procnet"
)

// noTable is a system that has no list of its sockets.
func noTable() ([]procnet.Socket, error) { return nil, fs.ErrNotExist }

var (
	someClient = netip.MustParseAddrPort("10.244.0.5:40000")
	podAddr    = netip.MustParseAddr("10.244.0.9")
)

// listenOn listens on a free port of a loopback address, or skips where the machine has none of its kind.
func listenOn(t *testing.T, host string) (net.Listener, uint16) {
	t.Helper()
	lis, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil && host == "::1" {
		t.Skip("this machine has no [::1]: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis, lis.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestLaptopServesOnEitherLoopback(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			lis, port := listenOn(t, host)
			c, err := onLaptop(nil).DialTCP(t.Context(), someClient, netip.AddrPortFrom(podAddr, port))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if got := c.RemoteAddr().String(); got != lis.Addr().String() {
				t.Errorf("connected to %s, want %s", got, lis.Addr())
			}
		})
	}
}

func TestLaptopRefusesWhereNothingListens(t *testing.T) {
	lis, port := listenOn(t, "127.0.0.1")
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := onLaptop(nil).DialTCP(t.Context(), someClient, netip.AddrPortFrom(podAddr, port))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp: %v, want connection refused", err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	table := func() ([]procnet.Socket, error) { return nil, nil }
	_, err = laptop{table: table}.DialUDP(t.Context(), someClient, netip.AddrPortFrom(podAddr, port))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("udp: %v, want connection refused", err)
	}
}

func TestLaptopListening(t *testing.T) {
	_, open := listenOn(t, "127.0.0.1")
	gone, free := listenOn(t, "127.0.0.1")
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]laptop{
		"by the table": onLaptop(nil),
		"by a connect": {table: noTable, ports: []int32{int32(open), int32(free)}},
	} {
		t.Run(name, func(t *testing.T) {
			have, err := listensOn(l, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(have, port{number: int32(open)}) || slices.Contains(have, port{number: int32(free)}) {
				t.Errorf("listens on %v, want %d and not %d in it", have, open, free)
			}
		})
	}
	broken := errors.New("no such thing")
	_, err := laptop{table: func() ([]procnet.Socket, error) { return nil, broken }}.Listening()
	if !errors.Is(err, broken) {
		t.Errorf("a table that cannot be read: %v", err)
	}
}

func TestLaptopDatagrams(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	port := pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for name, l := range map[string]laptop{"by the table": onLaptop(nil), "without one": {table: noTable}} {
		t.Run(name, func(t *testing.T) {
			c, err := l.DialUDP(t.Context(), someClient, netip.AddrPortFrom(podAddr, port))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if _, err := c.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			n, _, err := pc.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "ping" {
				t.Errorf("received %q, %v", buf[:n], err)
			}
		})
	}
}

func TestLaptopFindsWhereDatagramsAreTaken(t *testing.T) {
	at := func(network, addr string) procnet.Socket {
		return procnet.Socket{Network: network, Addr: netip.MustParseAddrPort(addr)}
	}
	cases := []struct {
		name  string
		socks []procnet.Socket
		want  string // empty: refused
	}{
		{"nobody", nil, ""},
		{"127.0.0.1", []procnet.Socket{at("udp4", "127.0.0.1:53")}, "127.0.0.1"},
		{"0.0.0.0", []procnet.Socket{at("udp4", "0.0.0.0:53")}, "127.0.0.1"},
		{"[::]", []procnet.Socket{at("udp6", "[::]:53")}, "127.0.0.1"},
		{"[::1]", []procnet.Socket{at("udp6", "[::1]:53")}, "::1"},
		{"another port", []procnet.Socket{at("udp4", "127.0.0.1:54")}, ""},
		{"another address", []procnet.Socket{at("udp4", "192.168.1.20:53")}, ""},
		{"tcp only", []procnet.Socket{at("tcp4", "127.0.0.1:53")}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := laptop{table: func() ([]procnet.Socket, error) { return c.socks, nil }}.udpAddr(53)
			if c.want == "" {
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%v, %v, want connection refused", got, err)
				}
				return
			}
			if err != nil || got.String() != c.want {
				t.Errorf("%v, %v, want %s", got, err, c.want)
			}
		})
	}
}

var _ served = laptop{}

func TestLaptopDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, port := listenOn(t, "127.0.0.1")
	if _, err := onLaptop(nil).DialTCP(ctx, someClient, netip.AddrPortFrom(podAddr, port)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}
