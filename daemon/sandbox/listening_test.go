package sandbox

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestParseListening(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []Socket
		fails    bool
	}{
		{"none", heading, nil, false},
		{"an empty file", "", nil, false},
		{
			"IPv4", heading + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1 0\n" +
				"   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n" +
				"   2: 07002A0A:0050 0100A8C0:1234 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n",
			[]Socket{
				{netip.MustParseAddrPort("127.0.0.1:8080"), "tcp4", 17},
				{netip.MustParseAddrPort("0.0.0.0:80"), "tcp4", 1},
			},
			false,
		},
		{
			"IPv6", heading + "   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0\n",
			[]Socket{{netip.MustParseAddrPort("[::1]:22"), "tcp4", 0}},
			false,
		},
		{"too few fields", heading + " 0: 0100007F:1F90 0A\n", nil, true},
		{"no address", heading + " 0: 0100007F 00000000:0000 0A\n", nil, true},
		{"a short address", heading + " 0: 01007F:1F90 00000000:0000 0A\n", nil, true},
		{"a large port", heading + " 0: 0100007F:11F90 00000000:0000 0A\n", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseListening(strings.NewReader(c.in), "tcp4")
			if (err != nil) != c.fails || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

func FuzzParseListening(f *testing.F) {
	f.Add(heading + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n")
	f.Add(heading + "   0: 00000000000000000000000001000000:0016 0:0 0A 0\n")
	f.Fuzz(func(t *testing.T, in string) {
		socks, err := parseListening(strings.NewReader(in), "tcp6")
		if err == nil && len(socks) > strings.Count(in, "0A") {
			t.Fatalf("%d sockets in %q", len(socks), in)
		}
		for _, s := range socks {
			if !s.Addr.Addr().IsValid() {
				t.Fatalf("no address in %v of %q", s, in)
			}
		}
	})
}
