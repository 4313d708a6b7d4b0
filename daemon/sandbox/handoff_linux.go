package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
	"github.com/teleswap/teleswap/proxy/accept"
)

const (
	// helloTime bounds how long a new connection may take to say who it is.
	helloTime = 5 * time.Second
	helloSize = 64 << 10
)

type handoffConn = *net.UnixConn

// hello is the first message of a sandbox. Its descriptors come with it: the device's, the network namespace's, and one
// for each of the volumes that has no problem. Problems has an entry for each volume.
type hello struct {
	Session, Token string
	Problems       []string
	// Container says that a keeper is speaking, Owner as whom the container's command runs; nil: as the daemon's user.
	Container bool  `json:",omitempty"`
	Owner     *user `json:",omitempty"`
}

// welcome is the daemon's answer. Error is empty when the command may start.
type welcome struct{ Error string }

// HandoffListener receives sandboxes on a unix socket. It is safe for concurrent use.
type HandoffListener struct {
	lis  *net.UnixListener
	path string

	ctx       context.Context //nolint:containedctx // ends with Close at the latest
	cancel    context.CancelFunc
	received  chan *Handoff
	receiving sync.WaitGroup
}

// ListenHandoff listens on a unix socket of mode 0600 at path; what is there already is replaced. The caller closes it; with
// ctx it ends, too, but for the socket.
func ListenHandoff(ctx context.Context, path string, log *slog.Logger) (*HandoffListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the handoff socket: %w", err)
	}
	// The mode is right from the first moment on: the socket gets its name only once it has it.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for sandboxes: %w", err)
	}
	lis.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		_ = os.Remove(tmp)
		return nil, errors.Join(fmt.Errorf("listen for sandboxes: %w", err), lis.Close())
	}
	l := &HandoffListener{lis: lis, path: path, received: make(chan *Handoff)}
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.receiving.Go(func() { // until Close
		accept.Loop(lis, func(err error) { log.Warn("accept a sandbox", "error", err) }, func(c net.Conn) {
			l.receiving.Go(func() { l.receive(c.(*net.UnixConn), log) })
		})
	})
	return l, nil
}

// Accept waits for the next sandbox of our own user; others, and those that say nothing sensible, are turned away
// without an error, and hold nobody up. It returns ctx's error, or net.ErrClosed after Close.
func (l *HandoffListener) Accept(ctx context.Context) (*Handoff, error) {
	select {
	case h := <-l.received:
		return h, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the listener, turns away whom nobody has accepted, and removes the socket.
func (l *HandoffListener) Close() error {
	l.cancel()
	err := errors.Join(l.lis.Close(), os.Remove(l.path))
	l.receiving.Wait()
	return err
}

// receive passes a sandbox on to who accepts.
func (l *HandoffListener) receive(conn *net.UnixConn, log *slog.Logger) {
	_ = conn.SetReadDeadline(time.Now().Add(helloTime))
	defer context.AfterFunc(l.ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	h, err := receiveHello(conn)
	if err != nil {
		log.Debug("turned away who is no sandbox", "error", errors.Join(err, conn.Close()))
		return
	}
	select {
	case l.received <- h:
	case <-l.ctx.Done():
		_ = h.Close()
	}
}

// receiveHello reads a sandbox's hello.
func receiveHello(conn *net.UnixConn) (*Handoff, error) {
	cred, err := unixsock.Peer(conn)
	if err != nil {
		return nil, err
	}
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return nil, fmt.Errorf("user %d is not ours", cred.Uid)
	}
	buf, oob := make([]byte, helloSize), make([]byte, unix.CmsgSpace(maxRights*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	files, err := unixsock.Files(oob[:oobn], "handoff")
	if err != nil {
		return nil, err
	}
	var hi hello
	err = json.Unmarshal(buf[:n], &hi)
	// Root's may only be a container's keeper, whom Docker runs as root.
	ours := int(cred.Uid) == os.Geteuid() || hi.Container
	if mounts, ok := mountsOf(files, hi.Problems); ok && ours && err == nil {
		_ = conn.SetReadDeadline(time.Time{})
		h := &Handoff{
			Session: hi.Session, Token: hi.Token, PID: int(cred.Pid), Container: hi.Container, UID: os.Geteuid(), GID: os.Getegid(),
			TUN: files[0], NetNS: files[1], Mounts: mounts, MountProblems: hi.Problems, conn: conn,
		}
		if hi.Owner != nil {
			h.UID, h.GID = hi.Owner.UID, hi.Owner.GID
		}
		return h, nil
	}
	for _, f := range files {
		_ = f.Close()
	}
	return nil, errors.Join(errors.New("no hello of a sandbox"), err)
}

// mountsOf deals the files of a hello out to the volumes.
func mountsOf(files []*os.File, problems []string) (mounts []*os.File, ok bool) {
	if len(files) < 2 {
		return nil, false
	}
	rest := files[2:]
	for _, problem := range problems {
		switch {
		case problem != "":
			mounts = append(mounts, nil)
		case len(rest) == 0:
			return nil, false
		default:
			mounts, rest = append(mounts, rest[0]), rest[1:]
		}
	}
	return mounts, len(rest) == 0
}

// Ack lets the sandbox start its command, or, with err, tells it why not and closes the connection to it.
func (h *Handoff) Ack(err error) error {
	h.asking.Lock()
	defer h.asking.Unlock()
	var w welcome
	if err != nil {
		w.Error = err.Error()
	}
	told := json.NewEncoder(h.conn).Encode(order{Welcome: &w})
	if err != nil {
		told = errors.Join(told, h.conn.Close())
	}
	if err := told; err != nil {
		return fmt.Errorf("acknowledge sandbox of process %d: %w", h.PID, err)
	}
	return nil
}

// Close gives the sandbox up: unless it was acknowledged its command does not start. Files that are nil have been
// given away.
func (h *Handoff) Close() error {
	_ = h.conn.Close()
	var errs []error
	for _, f := range append([]*os.File{h.TUN, h.NetNS}, h.Mounts...) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// handOver is the sandbox's side: it sends the device, the network namespace and the volumes, and waits for the daemon's
// word, or until ctx ends. The factory that it returns is the connection to the daemon.
func handOver(ctx context.Context, spec *Spec, tun *os.File, vols *volumes) (*factory, error) {
	return introduce(ctx, spec, tun, vols, hello{})
}

// introduce is handOver with more to say.
func introduce(ctx context.Context, spec *Spec, tun *os.File, vols *volumes, say hello) (_ *factory, err error) {
	netns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the sandbox's network namespace: %w", err)
	}
	defer func() { _ = netns.Close() }()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: spec.Handoff, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("reach the daemon: %w", err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	files, problems := vols.report()
	say.Session, say.Token, say.Problems = spec.Session, spec.Token, problems
	hi, err := json.Marshal(say)
	if err != nil {
		return nil, err
	}
	fds := []int{int(tun.Fd()), int(netns.Fd())}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	rights := unix.UnixRights(fds...)
	if _, _, err := conn.WriteMsgUnix(hi, rights, nil); err != nil {
		return nil, fmt.Errorf("hand the sandbox to the daemon: %w", err)
	}
	vols.close()
	f := &factory{conn: conn, orders: json.NewDecoder(conn), gone: make(chan struct{}), end: make(chan struct{}, 1)}
	w, err := f.awaitWelcome()
	if err != nil {
		return nil, fmt.Errorf("the daemon did not take the sandbox: %w", err)
	}
	if w.Error != "" {
		return nil, fmt.Errorf("the daemon refused the sandbox: %s", w.Error)
	}
	return f, nil
}
