package daemon

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/session"
	"github.com/teleswap/teleswap/daemon/volumes"
	"github.com/teleswap/teleswap/proxy/procnet"
)

// boxes receives sandboxes and gives each to the session that expects it.
type boxes struct {
	listener *sandbox.HandoffListener
	log      *slog.Logger

	mu       sync.Mutex
	expected map[string]expectation // by session
}

type expectation struct {
	token     string
	container bool
	arrived   chan session.Box
}

func newBoxes(l *sandbox.HandoffListener, log *slog.Logger) *boxes {
	return &boxes{listener: l, log: log, expected: map[string]expectation{}}
}

// Expect implements session.Boxes.
func (b *boxes) Expect(id, token string, container bool) (<-chan session.Box, func()) {
	e := expectation{token: token, container: container, arrived: make(chan session.Box, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected[id] = e
	return e.arrived, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.expected, id)
		select {
		case late := <-e.arrived:
			if err := errors.Join(late.Ack(errNotExpected), late.Close()); err != nil {
				b.log.Debug("turn a late sandbox away", "error", err)
			}
		default:
		}
	}
}

var errNotExpected = errors.New("the daemon does not expect this sandbox")

// acceptLoop ends with ctx or when the listener is closed.
func (b *boxes) acceptLoop(ctx context.Context) {
	for {
		h, err := b.listener.Accept(ctx)
		if err != nil {
			return
		}
		b.deliver(h)
	}
}

func (b *boxes) deliver(h *sandbox.Handoff) {
	box := newBox(h)
	if arrived := b.take(h); arrived != nil {
		arrived <- box
		return
	}
	b.log.Warn("a sandbox that nobody expects", "session", h.Session, "pid", h.PID)
	if err := errors.Join(box.Ack(errNotExpected), box.Close()); err != nil {
		b.log.Debug("turn a sandbox away", "error", err)
	}
}

// take is where the sandbox of that session and token is waited for; nil where it is
// not. A token is good once.
func (b *boxes) take(h *sandbox.Handoff) chan<- session.Box {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, known := b.expected[h.Session]
	if !known || e.container != h.Container || subtle.ConstantTimeCompare([]byte(e.token), []byte(h.Token)) != 1 {
		return nil
	}
	delete(b.expected, h.Session)
	return e.arrived
}

func (b *boxes) close() error {
	if err := b.listener.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close the sandboxes' socket: %w", err)
	}
	return nil
}

// box is a session.Box over a hand-over.
type box struct {
	handoff *sandbox.Handoff
	process process

	mu   sync.Mutex
	ours map[uint64]struct{} // inodes of the sockets that listen in the sandbox for us
}

func newBox(h *sandbox.Handoff) *box { return &box{handoff: h, process: openProcess(h.PID)} }

// TakeTUN implements session.Box.
func (b *box) TakeTUN() *os.File {
	f := b.handoff.TUN
	b.handoff.TUN = nil
	return f
}

// TakeMounts implements session.Box.
func (b *box) TakeMounts() session.BoxMounts {
	files := b.handoff.Mounts
	b.handoff.Mounts = nil
	return session.BoxMounts{
		Files: files, Problems: b.handoff.MountProblems, Owner: volumes.Owner{UID: b.handoff.UID, GID: b.handoff.GID},
	}
}

// Listening implements session.Box.
func (b *box) Listening() ([]procnet.Socket, error) {
	all, err := sandbox.Listening(b.handoff.PID)
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(all, func(s procnet.Socket) bool {
		_, is := b.ours[s.Inode]
		return is
	}), err
}

// Listen implements session.Box.
func (b *box) Listen(network string, addr netip.AddrPort) (*os.File, error) {
	// Held meanwhile, so that nobody sees the socket before it is known for ours.
	b.mu.Lock()
	defer b.mu.Unlock()
	f, err := b.handoff.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	inode, err := inodeOf(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if b.ours == nil {
		b.ours = map[uint64]struct{}{}
	}
	b.ours[inode] = struct{}{}
	return f, nil
}

// Dial implements session.Box.
func (b *box) Dial(network string, addr netip.AddrPort) (*os.File, error) {
	return b.handoff.Dial(network, addr)
}

// Ack implements session.Box.
func (b *box) Ack(err error) error { return b.handoff.Ack(err) }

// Kill implements session.Box. The sandbox's first process ends its own tree, with
// patience, when its command goes; what is left after that has no patience coming.
func (b *box) Kill() error {
	ended := b.process.wait()
	if b.handoff.Container { // its processes are Docker's
		if !ended {
			_ = b.handoff.End() // it has ended meanwhile, or its keeper has: then there is nobody to tell
			b.process.wait()
		}
		return nil
	}
	return sandbox.Kill(b.handoff.NetNS, syscall.SIGKILL)
}

// Close implements session.Box.
func (b *box) Close() error {
	return errors.Join(b.process.close(), b.handoff.Close())
}
