package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// listeningLook is how often the agent looks what listens in the pod.
	listeningLook = 500 * time.Millisecond
	// settled is how many looks in a row a UDP socket on an ephemeral port must be seen in: a
	// resolver's socket for one question looks the same as a server's.
	settled = 4

	tcpListen = 0x0a // include/net/tcp_states.h of the kernel
	udpOpen   = 0x07 // a UDP socket that is not connected
)

// watcher tells what other processes in the pod's network namespace listen on.
type watcher struct {
	proc     string                    // /proc but in tests
	announce func(tunnel.PodListening) // called with each change, at first always
	seen     map[netip.AddrPort]int    // looks in a row that a UDP socket on an ephemeral port was seen in
}

// run looks until ctx ends.
func (w *watcher) run(ctx context.Context, warn func(error)) {
	ticker := time.NewTicker(listeningLook)
	defer ticker.Stop()
	var last *tunnel.PodListening
	warned := false
	for {
		now, err := w.look()
		switch {
		case err != nil && !warned:
			warned = true
			warn(err)
		case err == nil && (last == nil || !reflect.DeepEqual(*last, now)):
			last = &now
			w.announce(now)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// look reads the kernel's tables (proc_net(5)).
func (w *watcher) look() (tunnel.PodListening, error) {
	own, err := w.ownSockets()
	if err != nil {
		return tunnel.PodListening{}, err
	}
	var l tunnel.PodListening
	for _, t := range []struct {
		file  string
		state byte
		to    *[]netip.AddrPort
	}{
		{"tcp", tcpListen, &l.TCP},
		{"tcp6", tcpListen, &l.TCP},
		{"udp", udpOpen, &l.UDP},
		{"udp6", udpOpen, &l.UDP},
	} {
		table, err := os.ReadFile(filepath.Join(w.proc, "net", t.file))
		if os.IsNotExist(err) && strings.HasSuffix(t.file, "6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return tunnel.PodListening{}, fmt.Errorf("see what listens in the pod: %w", err)
		}
		addrs, err := parseSockets(table, t.state, own)
		if err != nil {
			return tunnel.PodListening{}, fmt.Errorf("see what listens in the pod: %s: %w", t.file, err)
		}
		*t.to = append(*t.to, addrs...)
	}
	l.UDP = w.settle(l.UDP)
	for _, addrs := range []*[]netip.AddrPort{&l.TCP, &l.UDP} {
		slices.SortFunc(*addrs, netip.AddrPort.Compare)
		*addrs = slices.Compact(*addrs)
	}
	return l, nil
}

// settle leaves out the UDP sockets on ephemeral ports that may be a client's.
func (w *watcher) settle(addrs []netip.AddrPort) []netip.AddrPort {
	low, high := w.ephemeral()
	seen := make(map[netip.AddrPort]int)
	var out []netip.AddrPort
	for _, a := range addrs {
		if a.Port() >= low && a.Port() <= high {
			seen[a] = w.seen[a] + 1
			if seen[a] < settled {
				continue
			}
		}
		out = append(out, a)
	}
	w.seen = seen
	return out
}

// ephemeral is the range of ports that the kernel gives to clients (ip(7)).
func (w *watcher) ephemeral() (low, high uint16) {
	text, err := os.ReadFile(filepath.Join(w.proc, "sys/net/ipv4/ip_local_port_range"))
	if err == nil {
		if _, err = fmt.Sscan(string(text), &low, &high); err == nil {
			return low, high
		}
	}
	return 32768, 60999 // the kernel's default
}

// ownSockets are the inodes of the agent's sockets.
func (w *watcher) ownSockets() (map[uint64]bool, error) {
	dir := filepath.Join(w.proc, "self/fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("see the agent's own sockets: %w", err)
	}
	own := make(map[uint64]bool)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil { // closed since
			continue
		}
		text, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64); err == nil {
			own[inode] = true
		}
	}
	return own, nil
}

// parseSockets takes the local addresses out of a table of /proc/net that are in a state and
// not of the sockets left out.
func parseSockets(table []byte, state byte, without map[uint64]bool) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	lines := bufio.NewScanner(bytes.NewReader(table))
	for first := true; lines.Scan(); first = false {
		// sl, local_address, rem_address, st, queues, tr:tm->when, retrnsmt, uid, timeout, inode
		fields := strings.Fields(lines.Text())
		if first || len(fields) == 0 {
			continue
		}
		if len(fields) < 10 {
			return nil, fmt.Errorf("a line of %d fields", len(fields))
		}
		st, err := strconv.ParseUint(fields[3], 16, 8)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("inode: %w", err)
		}
		if byte(st) != state || without[inode] {
			continue
		}
		a, err := parseSocketAddr(fields[1])
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	return addrs, lines.Err()
}

// parseSocketAddr reads an address as the kernel prints it: words of 32 bits in the machine's order, a
// colon, the port, all in hexadecimal digits.
func parseSocketAddr(text string) (netip.AddrPort, error) {
	ipText, portText, ok := strings.Cut(text, ":")
	port, err := strconv.ParseUint(portText, 16, 16)
	raw, herr := hex.DecodeString(ipText)
	if !ok || err != nil || herr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("malformed address %q", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("malformed address %q", text)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}
