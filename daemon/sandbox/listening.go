package sandbox

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// listen is a listening socket's state in /proc/net/tcp (proc_pid_net(5), the kernel's TCP_LISTEN).
const listen = "0A"

// inodeField is where a line has the socket's inode.
const inodeField = 9

// parseListening reads the listening sockets of a /proc/PID/net/tcp or tcp6 file. Lines that it does not understand are
// an error: better none than a wrong answer.
func parseListening(r io.Reader, network string) ([]Socket, error) {
	var socks []Socket
	lines := bufio.NewScanner(r)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 4 {
			return nil, fmt.Errorf("no socket: %q", lines.Text())
		}
		if fields[3] != listen {
			continue
		}
		addr, err := parseSocketAddr(fields[1])
		if err != nil {
			return nil, err
		}
		sock := Socket{Addr: addr, Network: network}
		if len(fields) > inodeField {
			sock.Inode, _ = strconv.ParseUint(fields[inodeField], 10, 64)
		}
		socks = append(socks, sock)
	}
	return socks, lines.Err()
}

// parseSocketAddr parses ADDRESS:PORT in hexadecimal. The address is printed as 32-bit words of the machine's byte
// order, which is little-endian wherever we run.
func parseSocketAddr(s string) (netip.AddrPort, error) {
	bad := func() (netip.AddrPort, error) { return netip.AddrPort{}, fmt.Errorf("no socket address: %q", s) }
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return bad()
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return bad()
	}
	for w := 0; w < len(b); w += 4 {
		b[w], b[w+1], b[w+2], b[w+3] = b[w+3], b[w+2], b[w+1], b[w]
	}
	addr, _ := netip.AddrFromSlice(b)
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return bad()
	}
	return netip.AddrPortFrom(addr, uint16(p)), nil
}
