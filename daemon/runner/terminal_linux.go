package runner

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	// foregroundEvery is how often we look whether we came to the foreground: a shell that brings a running job there does
	// not tell it.
	foregroundEvery = 500 * time.Millisecond
	// stopTime is how long a stop signal may take to reach us. It is only ever used up in a process group that cannot be
	// stopped (setpgid(2), orphaned groups).
	stopTime = 200 * time.Millisecond
)

// terminal is the command's own terminal, and the caller's that it is shown on: sudo and script do it the same way. The
// caller's is raw while we are in its foreground, so keys reach the command's as they are, and mean there what they
// mean. Its loops end with end.
type terminal struct {
	real   *os.File // the caller's, opened anew: to wait for keys without changing how others read it
	master *os.File // the command's
	keys   chan os.Signal
	over   chan struct{}
	loops  sync.WaitGroup
	told   chan os.Signal // SIGWINCH, SIGCONT

	mu    sync.Mutex
	child int         // 0: none runs, and all keys are ours
	saved *term.State // of real, while it is raw
}

// ownTerminal says whether the caller's three files are all his controlling terminal.
func ownTerminal(s Stdio) bool {
	for _, f := range []*os.File{s.In, s.Out, s.Err} {
		if f == nil || !term.IsTerminal(int(f.Fd())) || !same(f, s.In) {
			return false
		}
	}
	// It fails with ENOTTY for any other terminal (tcgetpgrp(3)).
	_, err := unix.IoctlGetInt(int(s.In.Fd()), unix.TIOCGPGRP)
	return err == nil
}

// newTerminal makes a terminal like the caller's, and the command's end of it.
func newTerminal(s Stdio) (*terminal, *os.File, error) {
	shown, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open the terminal: %w", err)
	}
	master, slave, err := openPair(s.In, false)
	if err != nil {
		return nil, nil, errors.Join(err, shown.Close())
	}
	t := &terminal{
		real: shown, master: master, keys: make(chan os.Signal, 8), over: make(chan struct{}), told: make(chan os.Signal, 4),
	}
	return t, slave, nil
}

// openPair makes a terminal of the size and with the settings of another one. With plain, the kernel leaves what is
// written to it as it is: the other terminal will make of newlines what is due.
func openPair(like *os.File, plain bool) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal for the command: %w", err)
	}
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		slave = os.NewFile(peer, "terminal")
		settings, err := unix.IoctlGetTermios(int(like.Fd()), unix.TCGETS)
		if err != nil {
			return err
		}
		if plain {
			settings.Oflag &^= unix.OPOST
		}
		return unix.IoctlSetTermios(int(peer), unix.TCSETS, settings)
	})
	if err != nil {
		if slave != nil {
			_ = slave.Close()
		}
		return nil, nil, errors.Join(fmt.Errorf("make a terminal for the command: %w", err), master.Close())
	}
	followSize(like, master)
	return master, slave, nil
}

// followSize gives one terminal the size of another; its foreground gets SIGWINCH if that is news.
func followSize(from, to *os.File) {
	_ = control(from, func(fd int) error {
		size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil {
			return err
		}
		return control(to, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	})
}

// control calls f with the descriptor. (*os.File).Fd would make reading it block for good.
func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(fd uintptr) { result = do(int(fd)) })
	return errors.Join(err, result)
}

// begin gives the keyboard to the command.
func (t *terminal) begin(child int) {
	t.mu.Lock()
	t.child = child
	t.mu.Unlock()
	signal.Notify(t.told, unix.SIGWINCH, unix.SIGCONT)
	t.makeRaw()
	followSize(t.real, t.master)
	t.loops.Go(t.inputLoop)
	t.loops.Go(t.sizeLoop)
}

// turned notes that another command has the keyboard, or (0) none for now.
func (t *terminal) turned(child int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.child = child
}

// end gives the keyboard back. It may be called without begin.
func (t *terminal) end() {
	close(t.over)
	_ = t.real.SetReadDeadline(time.Now())
	_ = t.master.SetDeadline(time.Now())
	t.loops.Wait()
	signal.Stop(t.told)
	t.restore()
	_ = t.real.Close() // master is the plumbing's
}

// foreground says whether the caller's terminal is ours to read and to change.
func foreground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// makeRaw makes the caller's terminal raw, if we are in the foreground.
func (t *terminal) makeRaw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = control(t.real, func(fd int) (err error) {
		if t.saved == nil && foreground(fd) {
			t.saved, err = term.MakeRaw(fd)
		}
		return err
	})
}

// restore undoes makeRaw, once what was written is shown.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = control(t.real, func(fd int) error {
		if t.saved == nil || !foreground(fd) {
			return nil
		}
		_ = unix.IoctlSetInt(fd, unix.TCSBRK, 1) // tcdrain(3)
		err := term.Restore(fd, t.saved)
		t.saved = nil
		return err
	})
}

// inputLoop passes keys on while we are in the foreground.
func (t *terminal) inputLoop() {
	conn, err := t.real.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 4096)
	for {
		var n int
		var err error
		away := false
		waited := conn.Read(func(fd uintptr) bool {
			// Who reads in the background is stopped.
			if away = !foreground(int(fd)); away {
				return true
			}
			n, err = unix.Read(int(fd), buf)
			return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		})
		switch {
		case waited != nil, !away && (err != nil || n <= 0): // over, or hung up
			return
		case away:
			if !t.awaitForeground() {
				return
			}
			continue
		}
		pressed := t.signalsIn(buf[:n])
		if _, err := t.master.Write(buf[:n]); err != nil {
			return
		}
		for _, sig := range pressed {
			select {
			case t.keys <- sig:
			default: // eight times Ctrl-C says no more than seven times
			}
		}
	}
}

// awaitForeground is false when there is nothing to wait for any more.
func (t *terminal) awaitForeground() bool {
	look := time.NewTicker(foregroundEvery)
	defer look.Stop()
	for {
		select {
		case <-t.over:
			return false
		case <-look.C:
		}
		here := false
		if err := control(t.real, func(fd int) error { here = foreground(fd); return nil }); err != nil {
			return false
		}
		if here {
			t.makeRaw()
			return true
		}
	}
}

// signalsIn are the signals that keys mean to the command itself, and so to the caller too: not those for a job of the
// command's, and none while the command takes keys as they are.
func (t *terminal) signalsIn(keys []byte) []os.Signal {
	t.mu.Lock()
	child := t.child
	t.mu.Unlock()
	var found []os.Signal
	_ = control(t.master, func(fd int) error {
		group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err != nil || child != 0 && group != child {
			return err
		}
		settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil || settings.Lflag&unix.ISIG == 0 {
			return err
		}
		for _, k := range keys {
			switch k {
			case 0: // _POSIX_VDISABLE
			case settings.Cc[unix.VINTR]:
				found = append(found, syscall.SIGINT)
			case settings.Cc[unix.VQUIT]:
				found = append(found, syscall.SIGQUIT)
			}
		}
		return nil
	})
	return slices.Compact(found)
}

// sizeLoop follows the window, and makes the terminal raw again when a shell has given it back.
func (t *terminal) sizeLoop() {
	for {
		select {
		case sig := <-t.told:
			if sig == unix.SIGCONT {
				t.makeRaw()
			}
			followSize(t.real, t.master)
		case <-t.over:
			return
		}
	}
}

// stopped is called when the command's terminal has stopped it (Ctrl-Z): we stop too, with all of our process group, so that
// the caller's shell has its terminal back; and go on together.
func (t *terminal) stopped(child int) {
	t.restore()
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, unix.SIGCONT)
	defer signal.Stop(continued)
	_ = unix.Kill(0, unix.SIGTSTP)
	late := time.NewTimer(stopTime)
	defer late.Stop()
	select {
	case <-continued:
	case <-late.C:
	}
	t.makeRaw()
	followSize(t.real, t.master)
	_ = unix.Kill(-child, unix.SIGCONT)
}
