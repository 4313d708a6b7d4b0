package warden

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
)

// Arg is the first argument by which this program is a warden: `teleswap Arg SOCKET ID` for a daemon that listens on SOCKET
// for the warden of that id; `teleswap Arg` alone undoes what a dead one has left.
const Arg = "__warden"

// stayVariable tells a warden that it is the one that stays: on this descriptor it says that the daemon has it.
const stayVariable = "TELESWAP_WARDEN_FD"

// greeting is a warden's first message.
type greeting struct {
	ID  string
	PID int
}

// Main is the whole of such a process; it returns the exit status. What goes wrong before the daemon has the warden is written to
// stderr.
func Main(ctx context.Context, args []string, stderr *os.File) int {
	err := errors.New("for sudo, by `teleswap connect`: nobody else calls it")
	switch {
	case os.Geteuid() != 0:
		err = errors.New("it needs root")
	case len(args) == 0:
		var was Record
		if was, err = Recover(ctx); err == nil && was.Session != "" {
			fmt.Fprintf(stderr, "· put this machine's network back: it was killed while it was %s\n", was.About)
		}
	case len(args) == 2 && os.Getenv(stayVariable) == "":
		err = stay(args, stderr)
	case len(args) == 2:
		err = obeyDaemon(ctx, args[0], args[1], stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "teleswap:", err)
		return 1
	}
	return 0
}

// Recover undoes what a dead warden has left, and says what that was. It needs root.
func Recover(ctx context.Context) (Record, error) { return recoverIn(ctx, Dir, Machine()) }

// stay starts the warden in a session of its own and returns once the daemon has it: sudo, which may have a terminal of its own
// making between us and the user's, and the keyboard's signals are left behind.
func stay(args []string, stderr *os.File) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command("/proc/self/exe", append([]string{Arg}, args...)...)
	cmd.Env = append(os.Environ(), stayVariable+"=3")
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles = "/", stderr, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = errors.Join(cmd.Start(), w.Close())
	if err != nil {
		return fmt.Errorf("start the warden: %w", err)
	}
	if said, err := io.ReadAll(r); err != nil || len(said) == 0 {
		return errors.Join(errors.New("the warden did not reach the daemon"), cmd.Wait())
	}
	return cmd.Process.Release()
}

// obeyDaemon serves the daemon behind a socket.
func obeyDaemon(ctx context.Context, socket, id string, stderr *os.File) error {
	// The end comes by the connection: a signal that is meant for a terminal's programs is not for us, and one that
	// is meant for us ends the connection.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("reach the daemon: %w", err)
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.CloseRead() })()
	uid, err := asker(c)
	if err != nil {
		return err
	}
	if err := send(c, greeting{ID: id, PID: os.Getpid()}); err != nil {
		return fmt.Errorf("reach the daemon: %w", err)
	}
	var taken answer
	if _, err := receive(c, &taken); err != nil || taken.Error != "" {
		return fmt.Errorf("the daemon does not take the warden: %w", errors.Join(err, errors.New(taken.Error)))
	}
	if err := sayTaken(stderr); err != nil {
		return err
	}
	w := &warden{dir: Dir, fx: Machine(), uid: uid}
	return w.serve(context.WithoutCancel(ctx), daemonConn{c})
}

// asker is the user of the daemon at the other end: it must be the one who called sudo, or root.
func asker(c *net.UnixConn) (int, error) {
	peer, err := unixsock.Peer(c)
	if err != nil {
		return 0, fmt.Errorf("see who asks: %w", err)
	}
	caller := 0
	if text := os.Getenv("SUDO_UID"); text != "" {
		if caller, err = strconv.Atoi(text); err != nil {
			return 0, fmt.Errorf("SUDO_UID is %q", text)
		}
	}
	if int(peer.Uid) != caller && peer.Uid != 0 {
		return 0, fmt.Errorf("the daemon is user %d's, but the caller is user %d", peer.Uid, caller)
	}
	return int(peer.Uid), nil
}

// sayTaken lets the process that the user waits for go, and lets go of the terminal.
func sayTaken(stderr *os.File) error {
	fd, err := strconv.Atoi(os.Getenv(stayVariable))
	if err != nil || fd < 3 {
		return fmt.Errorf("%s is %q", stayVariable, os.Getenv(stayVariable))
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	for _, std := range []int{0, 1, int(stderr.Fd())} {
		if err := unix.Dup3(int(null.Fd()), std, 0); err != nil {
			return err
		}
	}
	said := os.NewFile(uintptr(fd), "starter")
	_, err = said.WriteString("taken\n")
	return errors.Join(err, said.Close())
}

// daemonConn is the connection to the daemon.
type daemonConn struct{ c *net.UnixConn }

func (d daemonConn) take() (Order, error) {
	var o Order
	files, err := receive(d.c, &o)
	for _, f := range files { // nobody sends us some
		_ = f.Close()
	}
	return o, err
}

func (d daemonConn) tell(a answer, files ...*os.File) error { return send(d.c, a, files...) }
