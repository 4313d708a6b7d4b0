package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
)

const (
	// askTime bounds how long the sandbox's first process may take to make a socket.
	askTime = 5 * time.Second
	// connectTime bounds a connect to a loopback address of the sandbox. Only a full backlog lets it wait.
	connectTime = time.Second
	// backlog of listeners: as much as the kernel allows.
	backlog = 1 << 12
)

// order is what the daemon tells a sandbox's first process: exactly one of its fields.
type order struct {
	Welcome *welcome    `json:",omitempty"`
	Socket  *socketWish `json:",omitempty"`
	// End has a keeper end its container at once.
	End bool `json:",omitempty"`
}

// socketWish asks for a socket in the sandbox: one that listens (or is bound, for UDP) at Addr, or is connected to it.
type socketWish struct {
	Network string // tcp or udp; with 4 or 6 for one family only
	Addr    netip.AddrPort
	Connect bool
}

// socketAnswer comes with the socket's descriptor, unless Errno says why there is none.
type socketAnswer struct{ Errno syscall.Errno }

// Listen makes a socket in the sandbox's network namespace that listens at addr, or for UDP is bound to it. network is
// tcp or udp, with 4 or 6 for one family only: [::] takes IPv4 too otherwise. The error wraps the errno (EADDRINUSE,
// EADDRNOTAVAIL …), or is ErrStopped or net.ErrClosed. The caller closes the file. It is safe for concurrent use, before Ack
// and after.
func (h *Handoff) Listen(network string, addr netip.AddrPort) (*os.File, error) {
	return h.socket(socketWish{Network: network, Addr: addr})
}

// Dial makes a socket in the sandbox that is connected to addr, as Listen does. It is for loopback addresses: a
// connection to others takes the device's way.
func (h *Handoff) Dial(network string, addr netip.AddrPort) (*os.File, error) {
	return h.socket(socketWish{Network: network, Addr: addr, Connect: true})
}

// End has the keeper of a container end it at once, with SIGKILL. It does not wait for that.
func (h *Handoff) End() error {
	h.asking.Lock()
	defer h.asking.Unlock()
	if err := json.NewEncoder(h.conn).Encode(order{End: true}); err != nil {
		return net.ErrClosed
	}
	return nil
}

func (h *Handoff) socket(w socketWish) (*os.File, error) {
	h.asking.Lock()
	defer h.asking.Unlock()
	var f *os.File
	err := ErrStopped
	// Who does not answer in time is not asked again: that is for one that hangs, not for one that waits for its user's "fg".
	if p, perr := readProcess(h.PID); perr != nil || !p.stopped {
		f, err = h.ask(w)
	}
	if err != nil {
		does := "listen"
		if w.Connect {
			does = "connect"
		}
		return nil, fmt.Errorf("%s in the sandbox at %s %v: %w", does, w.Network, w.Addr, err)
	}
	return f, nil
}

// ask has the sandbox's first process make a socket.
func (h *Handoff) ask(w socketWish) (_ *os.File, err error) {
	var refused syscall.Errno
	defer func() {
		if err != nil && !errors.As(err, &refused) {
			_ = h.conn.Close() // what comes next on it would be anyone's answer
			err = net.ErrClosed
		}
	}()
	if err := h.conn.SetDeadline(time.Now().Add(askTime)); err != nil {
		return nil, net.ErrClosed
	}
	if err := json.NewEncoder(h.conn).Encode(order{Socket: &w}); err != nil {
		return nil, net.ErrClosed
	}
	buf, oob := make([]byte, helloSize), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := h.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, net.ErrClosed
	}
	files, err := unixsock.Files(oob[:oobn], "handoff")
	if err != nil {
		return nil, net.ErrClosed
	}
	var a socketAnswer
	if err := json.Unmarshal(buf[:n], &a); err != nil || a.Errno != 0 || len(files) != 1 {
		for _, f := range files {
			_ = f.Close()
		}
		if err == nil && a.Errno != 0 {
			return nil, a.Errno
		}
		return nil, net.ErrClosed
	}
	_ = h.conn.SetDeadline(time.Time{})
	return files[0], nil
}

// factory is the sandbox's end of the connection to the daemon.
type factory struct {
	conn   *net.UnixConn
	orders *json.Decoder
	gone   chan struct{} // closed when the daemon's end is, once start was called
	end    chan struct{} // the daemon's order to end
}

// awaitWelcome makes sockets until the daemon says whether the command may start.
func (f *factory) awaitWelcome() (welcome, error) {
	for {
		var o order
		if err := f.orders.Decode(&o); err != nil {
			return welcome{}, err
		}
		if o.Welcome != nil {
			return *o.Welcome, nil
		}
		if err := f.answer(o.Socket); err != nil {
			return welcome{}, err
		}
	}
}

// start goes on making sockets, in a goroutine that lasts as long as the daemon's end. It returns once that has given up
// its privileges: capabilities belong to threads, so it stays on one of its own.
func (f *factory) start() error {
	dropped := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer close(f.gone)
		defer func() { _ = f.conn.Close() }()
		err := dropPrivileges()
		dropped <- err
		for err == nil {
			var o order
			if err = f.orders.Decode(&o); err == nil && o.End {
				select {
				case f.end <- struct{}{}:
				default:
				}
			} else if err == nil {
				err = f.answer(o.Socket)
			}
		}
	}()
	return <-dropped
}

// answer makes the socket that is wished for, and sends it.
func (f *factory) answer(w *socketWish) error {
	if w == nil {
		return errors.New("no order")
	}
	var a socketAnswer
	var rights []byte
	fd, err := makeSocket(*w)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		rights = unix.UnixRights(fd)
	} else if a.Errno = unix.EINVAL; !errors.As(err, &a.Errno) {
		a.Errno = unix.EINVAL
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, _, err = f.conn.WriteMsgUnix(b, rights, nil)
	return err
}

// makeSocket makes a socket in the namespace of this process.
func makeSocket(w socketWish) (int, error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if w.Addr.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	if strings.HasPrefix(w.Network, "udp") {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := prepareSocket(fd, family, kind, w); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// prepareSocket connects a socket, or binds it and lets it listen.
func prepareSocket(fd, family, kind int, w socketWish) error {
	if family == unix.AF_INET6 {
		only := 0
		if strings.HasSuffix(w.Network, "6") {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return err
		}
	}
	if w.Connect {
		return connect(fd, w.Addr)
	}
	if kind == unix.SOCK_STREAM { // connections that were closed a moment ago are no reason not to listen
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, sockaddr(w.Addr)); err != nil {
		return err
	}
	if kind == unix.SOCK_STREAM {
		return unix.Listen(fd, backlog)
	}
	return nil
}

// connect connects within connectTime (socket(7): SO_SNDTIMEO holds for connect, too).
func connect(fd int, to netip.AddrPort) error {
	wait := unix.NsecToTimeval(int64(connectTime))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
		return err
	}
	err := unix.Connect(fd, sockaddr(to))
	if errors.Is(err, unix.EINPROGRESS) {
		err = unix.ETIMEDOUT
	}
	return errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{}))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
