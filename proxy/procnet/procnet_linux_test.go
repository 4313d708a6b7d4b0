package procnet

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

// TestKernelTables: on the kernel's own tables.
func TestKernelTables(t *testing.T) {
	for _, c := range []struct{ listen, addr, network string }{
		{"tcp4", "127.0.0.1:0", "tcp4"},
		{"tcp6", "[::1]:0", "tcp6"},
		{"tcp", "[::]:0", "tcp6"},
		{"udp4", "127.0.0.1:0", "udp4"},
		{"udp6", "[::1]:0", "udp6"},
	} {
		t.Run(c.listen+" "+c.addr, func(t *testing.T) {
			var addr net.Addr
			if c.network[:3] == "tcp" {
				lis, err := net.Listen(c.listen, c.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = lis.Close() }()
				addr = lis.Addr()
			} else {
				conn, err := net.ListenPacket(c.listen, c.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				addr = conn.LocalAddr()
			}
			want := netip.MustParseAddrPort(addr.String())
			sockets, err := Listening("/proc/self")
			if err != nil || !slices.ContainsFunc(sockets, func(s Socket) bool {
				return s.Addr == want && s.Network == c.network && s.Inode > 0
			}) {
				t.Errorf("%v is not in %v, %v", want, sockets, err)
			}
		})
	}
}
