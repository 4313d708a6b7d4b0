package ping

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	headerSize               = 8
)

// Echo sends one echo request with payload to dst and returns nil when its reply came. Otherwise the error is ctx's, wraps
// ErrUnavailable, or wraps the errno that the network gave: EHOSTUNREACH, ENETUNREACH, EMSGSIZE …
// It is safe for concurrent use.
func Echo(ctx context.Context, dst netip.Addr, payload []byte) error {
	f, err := open(dst.Unmap())
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// The socket has an identifier of its own, and the kernel fills in the checksum.
	request := make([]byte, headerSize, headerSize+len(payload))
	request[0] = echoRequest4
	if dst.Unmap().Is6() {
		request[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(request[6:], 1) // the sequence number
	request = append(request, payload...)
	defer context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })()
	if _, err := f.Write(request); err != nil {
		return told(ctx, err)
	}
	reply := make([]byte, len(request)+headerSize)
	for {
		n, err := f.Read(reply)
		if err != nil {
			return told(ctx, err)
		}
		if n == len(request) && (reply[0] == echoReply4 || reply[0] == echoReply6) && bytes.Equal(reply[6:n], request[6:]) {
			return nil
		}
	}
}

// told is err, or why ctx ended if that is why.
func told(ctx context.Context, err error) error {
	if cerr := context.Cause(ctx); cerr != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return cerr
	}
	return fmt.Errorf("ping: %w", err)
}

// open makes a ping socket that is connected to dst and hears of ICMP errors.
func open(dst netip.Addr) (*os.File, error) {
	family, proto, to := unix.AF_INET, unix.IPPROTO_ICMP, unix.Sockaddr(nil)
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if dst.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		to = &unix.SockaddrInet6{Addr: dst.As16()}
	} else {
		to = &unix.SockaddrInet4{Addr: dst.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, os.NewSyscallError("socket", err))
	case err != nil:
		return nil, fmt.Errorf("ping: %w", os.NewSyscallError("socket", err))
	}
	err = errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, 1)),
		os.NewSyscallError("connect", unix.Connect(fd, to)),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("ping: %w", err)
	}
	return os.NewFile(uintptr(fd), "ping"), nil
}
