// Package procnet tells from the kernel's tables (proc_pid_net(5)) what listens in a network namespace. It knows
// sockets only, neither whose they are nor whom they are for.
package procnet

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	tcpListen = 0x0a // include/net/tcp_states.h of the kernel
	udpOpen   = 0x07 // TCP_CLOSE there: a UDP socket that is not connected

	// What a line has: sl, local_address, rem_address, st, queues, tr:tm->when, retrnsmt, uid, timeout, inode …
	localField, stateField, inodeField = 1, 3, 9
)

// Socket is a TCP socket that listens, or a UDP socket that is bound and not connected.
type Socket struct {
	// Addr is where. An IPv4 address that is mapped into IPv6 is shown as IPv4.
	Addr netip.AddrPort
	// Network is tcp4, tcp6, udp4 or udp6, by the socket's family: one of IPv6 on [::] usually takes IPv4 too.
	Network string
	// Inode is the number by which fstat(2) knows the socket.
	Inode uint64
}

// Listening reads the sockets of the network namespace of a process; dir is the process's folder, /proc/PID, or /proc
// for the caller's own. An error is returned for a table that is missing, except for those of IPv6, which not every kernel
// has, and for one that is not understood: better none than a wrong answer.
func Listening(dir string) ([]Socket, error) {
	var all []Socket
	for _, table := range []struct {
		file, network string
		state         uint8
	}{
		{"tcp", "tcp4", tcpListen},
		{"tcp6", "tcp6", tcpListen},
		{"udp", "udp4", udpOpen},
		{"udp6", "udp6", udpOpen},
	} {
		f, err := os.Open(filepath.Join(dir, "net", table.file))
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(table.file, "6") {
			continue
		}
		if err != nil {
			return nil, err
		}
		sockets, err := parse(f, table.network, table.state)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

// parse takes the sockets that are in a state out of a table.
func parse(table io.Reader, network string, state uint8) ([]Socket, error) {
	var sockets []Socket
	lines := bufio.NewScanner(table)
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) == 0 { // the heading
			continue
		}
		if len(fields) <= inodeField {
			return nil, fmt.Errorf("a line of %d fields", len(fields))
		}
		st, err := strconv.ParseUint(fields[stateField], 16, 8)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		if uint8(st) != state {
			continue
		}
		inode, err := strconv.ParseUint(fields[inodeField], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("inode: %w", err)
		}
		addr, err := parseAddr(fields[localField])
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, Socket{Addr: addr, Network: network, Inode: inode})
	}
	return sockets, lines.Err()
}

// parseAddr reads an address as the kernel prints it: the words of 32 bits in the machine's byte order, a colon, the
// port, all in hexadecimal digits.
func parseAddr(text string) (netip.AddrPort, error) {
	ipText, portText, _ := strings.Cut(text, ":")
	port, err := strconv.ParseUint(portText, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("malformed address %q: %w", text, err)
	}
	raw, err := hex.DecodeString(ipText)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("malformed address %q: %w", text, err)
	}
	for word := range len(raw) / 4 {
		w := raw[4*word:]
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	ip, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("malformed address %q", text)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}
