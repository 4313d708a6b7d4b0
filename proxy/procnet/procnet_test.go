package procnet

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// printed is an address as this machine's kernel prints it.
func printed(addr string) string {
	a := netip.MustParseAddrPort(addr)
	raw := a.Addr().AsSlice()
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(raw)), a.Port())
}

// line is a table's line of a socket.
func line(addr, state string, inode int) string {
	return fmt.Sprintf("   0: %s %s %s 00000000:00000000 00:00000000 00000000  1000        0 %d 1 0000000000000000 100 0 0 10 0\n",
		addr, addr, state, inode)
}

func TestParse(t *testing.T) {
	socket := func(addr string, inode uint64) Socket {
		return Socket{Addr: netip.MustParseAddrPort(addr), Network: "a network", Inode: inode}
	}
	for _, c := range []struct {
		name, table string
		state       uint8
		want        []Socket
		fails       bool
	}{
		{name: "no heading"},
		{name: "no socket", table: heading},
		{
			name: "IPv4", state: tcpListen,
			table: heading + line(printed("127.0.0.1:8080"), "0A", 17) + line(printed("0.0.0.0:80"), "0A", 1),
			want:  []Socket{socket("127.0.0.1:8080", 17), socket("0.0.0.0:80", 1)},
		},
		{
			name: "connections are passed over", state: tcpListen,
			table: heading + line(printed("10.42.0.7:80"), "01", 17) + line(printed("10.42.0.7:81"), "06", 0) + line(printed("10.42.0.7:80"), "0A", 18),
			want:  []Socket{socket("10.42.0.7:80", 18)},
		},
		{
			name: "IPv6", state: tcpListen,
			table: heading + line(printed("[::1]:22"), "0A", 3) + line(printed("[::]:443"), "0A", 4) + line(printed("[2001:db8::1234]:65535"), "0A", 5),
			want:  []Socket{socket("[::1]:22", 3), socket("[::]:443", 4), socket("[2001:db8::1234]:65535", 5)},
		},
		{
			name: "IPv4 mapped into IPv6", state: tcpListen,
			table: heading + line(printed("[::ffff:10.244.0.7]:8082"), "0A", 3),
			want:  []Socket{socket("10.244.0.7:8082", 3)},
		},
		{
			name: "UDP, bound and connected", state: udpOpen,
			table: heading + line(printed("0.0.0.0:514"), "07", 3) + line(printed("10.42.0.7:40000"), "01", 4),
			want:  []Socket{socket("0.0.0.0:514", 3)},
		},
		{name: "too few fields", table: heading + " 0: 0100007F:1F90 00000000:0000 0A\n", fails: true},
		{name: "no state", table: heading + line(printed("0.0.0.0:80"), "listens", 1), fails: true},
		{name: "no inode", state: tcpListen, table: strings.Replace(heading+line(printed("0.0.0.0:80"), "0A", 4711), "4711", "-", 1), fails: true},
		{name: "no port", state: tcpListen, table: heading + line("0100007F", "0A", 1), fails: true},
		{name: "a large port", state: tcpListen, table: heading + line("0100007F:11F90", "0A", 1), fails: true},
		{name: "a short address", state: tcpListen, table: heading + line("01007F:1F90", "0A", 1), fails: true},
		{name: "an address of no family", state: tcpListen, table: heading + line("0100007F0100007F:1F90", "0A", 1), fails: true},
		{name: "no digits", state: tcpListen, table: heading + line("0100007G:1F90", "0A", 1), fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(strings.NewReader(c.table), "a network", c.state)
			if (err != nil) != c.fails || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

// Kernels of both byte orders print what is in memory: 127.0.0.1 is 0100007F on little-endian machines.
func TestByteOrder(t *testing.T) {
	text := "0100007F:1F90"
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		text = "7F000001:1F90"
	}
	if got, err := parseAddr(text); err != nil || got.String() != "127.0.0.1:8080" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestListening(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "net"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{
		"tcp": line(printed("0.0.0.0:80"), "0A", 1), "tcp6": line(printed("[::]:81"), "0A", 2), "udp": line(printed("0.0.0.0:53"), "07", 3),
	} {
		if err := os.WriteFile(filepath.Join(dir, "net", file), []byte(heading+content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Listening(dir)
	if want := "[{0.0.0.0:80 tcp4 1} {[::]:81 tcp6 2} {0.0.0.0:53 udp4 3}]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	if err := os.Remove(filepath.Join(dir, "net", "udp")); err != nil {
		t.Fatal(err)
	}
	if got, err := Listening(dir); !os.IsNotExist(err) {
		t.Errorf("a table that is missing: %v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(heading + line(printed("127.0.0.1:8080"), "0A", 101))
	f.Add(heading + line(printed("[::ffff:127.0.0.1]:8080"), "0A", 101))
	f.Fuzz(func(t *testing.T, table string) {
		sockets, err := parse(strings.NewReader(table), "tcp6", tcpListen)
		if len(sockets) > strings.Count(table, "\n")+1 {
			t.Fatalf("%d sockets in %q", len(sockets), table)
		}
		for _, s := range sockets {
			if !s.Addr.IsValid() || s.Addr.Addr().Is4In6() {
				t.Fatalf("%v in %q, %v", s, table, err)
			}
		}
	})
}
