package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
	"github.com/teleswap/teleswap/proxy/accept"
)

// knock is the first byte on a door's connection. The descriptors of the command's input, output and errors come with it,
// and those that are to be held.
const knock = 'k'

// stdioFiles is how many descriptors every knock brings.
const stdioFiles = 3

// Knock asks at a sandbox's door for a command to be started inside. in, out and err are what it gets, held is as in Start.
// The caller waits for the first Report on the Control, and closes it, which ends the command.
func Knock(door string, e Entry, in, out, err *os.File, held ...*os.File) (*Control, error) {
	conn, dialErr := net.DialUnix("unix", nil, &net.UnixAddr{Name: door, Net: "unix"})
	if dialErr != nil {
		return nil, fmt.Errorf("knock at the sandbox's door: %w", dialErr)
	}
	null, nullErr := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if nullErr != nil {
		return nil, errors.Join(nullErr, conn.Close())
	}
	defer func() { _ = null.Close() }()
	var fds []int
	for _, f := range append([]*os.File{in, out, err}, held...) {
		if f == nil {
			f = null
		}
		fds = append(fds, int(f.Fd()))
	}
	e.Held = len(held)
	ctl := newControl(conn)
	_, _, sendErr := conn.WriteMsgUnix([]byte{knock}, unix.UnixRights(fds...), nil)
	if sendErr == nil {
		sendErr = ctl.Send(Order{Enter: &e})
	}
	if sendErr != nil {
		return nil, errors.Join(fmt.Errorf("knock at the sandbox's door: %w", sendErr), ctl.Close())
	}
	return ctl, nil
}

// listenDoor makes the door of mode 0600. An empty path has none.
func listenDoor(path string) (*net.UnixListener, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make the sandbox's door: %w", err)
	}
	mask := unix.Umask(0o177)
	defer unix.Umask(mask)
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the sandbox's door: %w", err)
	}
	return lis, nil
}

// openDoor begins to let those of our own user in who knock. The loop ends with the door.
func (s *supervisor) openDoor(lis *net.UnixListener) {
	if lis == nil {
		return
	}
	go accept.Loop(lis, func(error) {}, func(c net.Conn) {
		conn := c.(*net.UnixConn)
		if cred, err := unixsock.Peer(conn); err != nil || int(cred.Uid) != os.Geteuid() {
			_ = conn.Close()
			return
		}
		s.knocks <- conn
	})
}

// letIn starts a doorman for one who knocks. It is called on the thread that started the command.
func (s *supervisor) letIn(conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	f, err := conn.File()
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer func() { _ = null.Close() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{os.Args[0], InitArg, DoorArg}, &syscall.ProcAttr{
		Dir: "/", Env: s.spec.Env, Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), f.Fd()},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	})
	if err != nil {
		_ = newControl(conn).Send(Report{Failed: fmt.Sprintf("start a process in the sandbox: %v", err)})
		return
	}
	s.doormen[pid] = true
	s.awaitLocked()
}

// hangUp tells those who came in by the door that the session ends: a shell ends at that, which takes no SIGTERM.
func (s *supervisor) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.doormen {
		for _, p := range descendants(pid) {
			_ = p.signal(unix.SIGHUP)
		}
	}
}

// hasLeft forgets a doorman that has ended.
func (s *supervisor) hasLeft(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doormen, pid)
}

// Doorman is a process of its own beside the sandbox's first, one for each who came in by the door: it starts the command,
// and is its parent, the witness of its terminal's signals and its reaper. It returns the exit status for the program.
func Doorman() int {
	runtime.LockOSThread()
	unix.CloseOnExec(ControlFD)
	ctl, files, err := answer(os.NewFile(ControlFD, "door"))
	if err != nil {
		return statusFailed
	}
	defer func() { _ = ctl.Close() }()
	order, seen := attend(ctl)
	if order.Enter == nil {
		return statusFailed
	}
	spec, child, err := enter(order.Enter, files)
	if err != nil {
		return refuse(ctl, err)
	}
	_ = ctl.Send(Report{Started: child})
	orders := make(chan Order)
	go readOrders(ctl, orders) // ends with the process: the connection outlives everything here
	return newSupervisor(spec, child, ctl, orders, seen, files[stdioFiles:]).run()
}

// answer takes what came with the knock.
func answer(f *os.File) (*Control, []*os.File, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("the door is no unix socket"), c.Close())
	}
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(maxRights*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	files, err := unixsock.Files(oob[:oobn], "handoff")
	if err != nil || n != 1 || buf[0] != knock || len(files) < stdioFiles {
		return nil, nil, errors.Join(errors.New("nobody knocks like that"), err, conn.Close())
	}
	return newControl(conn), files, nil
}

// enter starts the command, whose files become our own.
func enter(e *Entry, files []*os.File) (*Spec, int, error) {
	if len(e.Argv) == 0 {
		return nil, 0, errors.New("no command to run in the sandbox")
	}
	for i, f := range files[:stdioFiles] {
		if err := unix.Dup3(int(f.Fd()), i, 0); err != nil {
			return nil, 0, fmt.Errorf("take the command's files: %w", err)
		}
		_ = f.Close()
	}
	if e.Terminal {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
			return nil, 0, fmt.Errorf("take the terminal: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, 0, fmt.Errorf("become the command's reaper: %w", err)
	}
	spec := &Spec{Argv: e.Argv, Dir: e.Dir, Env: overlaid(os.Environ(), e.Env), Terminal: e.Terminal}
	child, err := startCommand(spec)
	return spec, child, err
}

// overlaid lays variables over an environment.
func overlaid(env, over []string) []string {
	at := make(map[string]int, len(env))
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		at[name] = i
	}
	for _, kv := range over {
		name, _, _ := strings.Cut(kv, "=")
		if i, known := at[name]; known {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}
