//go:build !linux

package sandbox

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/teleswap/teleswap/proxy/procnet"
)

type handoffConn struct{}

// Check says whether this user can make a sandbox on this machine.
func Check() error { return ErrUnsupported }

// Start starts the first process of a sandbox.
func Start(Spec, *os.File, *os.File, *os.File, ...*os.File) (*exec.Cmd, *Control, error) {
	return nil, nil, ErrUnsupported
}

// Knock asks at a sandbox's door for a command to be started inside.
func Knock(string, Entry, *os.File, *os.File, *os.File, ...*os.File) (*Control, error) {
	return nil, ErrUnsupported
}

// Doorman is the parent of a command that came in by the door.
func Doorman() int { return 1 }

// Init is the first process of a sandbox.
func Init() int { return 1 }

// HandoffListener receives no sandboxes: there are none here.
type HandoffListener struct {
	closed chan struct{}
	once   sync.Once
}

// ListenHandoff makes a listener to which nobody comes.
func ListenHandoff(context.Context, string, *slog.Logger) (*HandoffListener, error) {
	return &HandoffListener{closed: make(chan struct{})}, nil
}

// Accept waits for Close or the end of ctx.
func (l *HandoffListener) Accept(ctx context.Context) (*Handoff, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the listener.
func (l *HandoffListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Ack lets the sandbox start its command, or tells it why not.
func (h *Handoff) Ack(error) error { return ErrUnsupported }

// Listen makes a socket in the sandbox that listens.
func (h *Handoff) Listen(string, netip.AddrPort) (*os.File, error) { return nil, ErrUnsupported }

// Dial makes a socket in the sandbox that is connected.
func (h *Handoff) Dial(string, netip.AddrPort) (*os.File, error) { return nil, ErrUnsupported }

// End has the keeper of a container end it.
func (h *Handoff) End() error { return ErrUnsupported }

// Keep is the first process of the container that keeps another's network.
func Keep() int { return 1 }

// MapArg is the first argument with which the program waits to be killed.
const MapArg = "__sandbox-ids"

// WaitMapped waits until standard input is closed.
func WaitMapped() int { return 1 }

// KeeperControl and KeeperHandoff are paths in a keeper.
const (
	KeeperControl = "/.teleswap/control"
	KeeperHandoff = "/.teleswap/handoff"
)

// Gate is the first process of a container.
func Gate([]string) int { return 1 }

// Close gives the sandbox up.
func (h *Handoff) Close() error { return nil }

// Listening returns the sockets that listen in the network namespace of process pid.
func Listening(int) ([]procnet.Socket, error) { return nil, ErrUnsupported }

// Processes returns the processes in a network namespace.
func Processes(*os.File) ([]int, error) { return nil, ErrUnsupported }

// Kill sends sig to every process in a network namespace.
func Kill(*os.File, syscall.Signal, ...int) error { return ErrUnsupported }

// Sockets are those that a process and its relatives have open: not to be known here.
func Sockets(int) (inodes map[uint64]struct{}, blind bool, err error) {
	return nil, false, ErrUnsupported
}

// SocketHolder says which process has a socket open: not to be known here.
func SocketHolder(uint64) (name string, pid int, ok bool) { return "", 0, false }
