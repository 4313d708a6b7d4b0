package scene

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// netns is a network namespace by the path of its file. The zero value is the
// namespace that the test runs in.
type netns struct{ path string }

// do runs f on a thread that is in the namespace. Sockets that f opens belong to the
// namespace for good, whoever uses them afterwards.
func (n netns) do(f func() error) error {
	if n.path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, so no other one runs in the wrong place.
		runtime.LockOSThread()
		done <- n.enter(f)
	}()
	return <-done
}

func (n netns) enter(f func() error) error {
	file, err := os.Open(n.path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = file.Close() }()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.path, err)
	}
	return f()
}

// listen opens a TCP socket in the namespace. The address must be numeric: a name would be
// looked up by other threads.
func (n netns) listen(address string) (net.Listener, error) {
	var lis net.Listener
	err := n.do(func() error {
		var err error
		lis, err = net.Listen("tcp", address)
		return err
	})
	return lis, err
}

// dial opens a TCP connection from the namespace. The address must be numeric, as listen's.
func (n netns) dial(address string) (net.Conn, error) {
	var conn net.Conn
	err := n.do(func() error {
		var err error
		conn, err = net.DialTimeout("tcp", address, patience)
		return err
	})
	return conn, err
}

func (n netns) listenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.do(func() error {
		var err error
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}
