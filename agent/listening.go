package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teleswap/teleswap/proxy/procnet"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// listeningLook is how often the agent looks what listens in the pod.
	listeningLook = 500 * time.Millisecond
	// settled is how many looks in a row a UDP socket on an ephemeral port must be seen in: a
	// resolver's socket for one question looks the same as a server's.
	settled = 4
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

// look reads the kernel's tables.
func (w *watcher) look() (tunnel.PodListening, error) {
	own, err := w.ownSockets()
	if err != nil {
		return tunnel.PodListening{}, err
	}
	sockets, err := procnet.Listening(w.proc)
	if err != nil {
		return tunnel.PodListening{}, fmt.Errorf("see what listens in the pod: %w", err)
	}
	var l tunnel.PodListening
	for _, socket := range sockets {
		switch {
		case own[socket.Inode]:
		case strings.HasPrefix(socket.Network, "tcp"):
			l.TCP = append(l.TCP, socket.Addr)
		default:
			l.UDP = append(l.UDP, socket.Addr)
		}
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
