package runner

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/sandbox"
)

// TestOrdersToNobody: who orders something while the sandbox's first process ends, or is being waited for, is told that there is
// nobody, however that shows.
func TestOrdersToNobody(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, ours *sandbox.Control, theirs net.Conn)
	}{
		{"it has ended", func(t *testing.T, _ *sandbox.Control, theirs net.Conn) {
			if err := theirs.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"it was seen to have ended", func(t *testing.T, ours *sandbox.Control, _ net.Conn) {
			if err := ours.Close(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := controlPair(t)
			tt.end(t, ours, theirs)
			p := &Process{ctl: ours, ended: make(chan struct{})}
			if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a signal: %v", err)
			}
			c := &Container{ctl: ours, ended: p.ended}
			if err := c.Signal(syscall.SIGINT); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a container's signal: %v", err)
			}
			if err := p.Restart(0); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a restart: %v", err)
			}
			if err := p.RunHook(Hook{}); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a hook: %v", err)
			}
		})
	}
}

// controlPair are the two ends of a control socket.
func controlPair(t *testing.T) (ours *sandbox.Control, theirs net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, err = sandbox.NewControl(os.NewFile(uintptr(fds[0]), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	f := os.NewFile(uintptr(fds[1]), "theirs")
	defer func() { _ = f.Close() }()
	if theirs, err = net.FileConn(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	return ours, theirs
}
