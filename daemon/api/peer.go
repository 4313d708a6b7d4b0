package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// ErrForeignPeer says that the process at the other end belongs to another user.
var ErrForeignPeer = errors.New("the process at the other end belongs to another user")

// checkPeer asks the kernel whose process holds the other end of a unix socket.
func checkPeer(c net.Conn) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return fmt.Errorf("check the peer: %T is no socket", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return fmt.Errorf("check the peer: %w", err)
	}
	var uid int
	var uidErr error
	if err := raw.Control(func(fd uintptr) { uid, uidErr = peerUID(int(fd)) }); err != nil {
		return fmt.Errorf("check the peer: %w", err)
	}
	if uidErr != nil {
		return fmt.Errorf("check the peer: %w", uidErr)
	}
	if uid != os.Geteuid() {
		return fmt.Errorf("%w (uid %d)", ErrForeignPeer, uid)
	}
	return nil
}

// peerListener hands on connections of this user's processes only.
type peerListener struct {
	net.Listener
	refused func(error)
}

// Accept drops foreign connections at once, before a byte of theirs is read.
func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		err = checkPeer(c)
		if err == nil {
			return c, nil
		}
		l.refused(errors.Join(err, c.Close()))
	}
}
