package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/e2e/scene"
)

// terminal is a pseudo-terminal's master end, with what was shown on it. Safe for
// concurrent use.
type terminal struct {
	master, slave *os.File

	mu    sync.Mutex
	shown bytes.Buffer
}

func newTerminal(t *testing.T, w *scene.World) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open a terminal: %v", err)
	}
	n, err := unlock(master)
	if err != nil {
		t.Fatalf("unlock the terminal: %v", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open the terminal's other end: %v", err)
	}
	if err := slave.Chown(w.User.UID, -1); err != nil {
		t.Fatalf("give the terminal to the user: %v", err)
	}
	tt := &terminal{master: master, slave: slave}
	go tt.watch()
	t.Cleanup(func() { _ = tt.master.Close() }) // a test that hangs up has closed it
	return tt
}

// unlock makes the other end ready and returns its number. It does not ask the file for its
// descriptor: that would make reading block, and a blocked read keeps the terminal from being closed.
func unlock(master *os.File) (number uint32, err error) {
	conn, err := master.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
		}
	})
	return number, errors.Join(control, err)
}

// watch ends when the master is closed, or the last process on the terminal has gone.
func (t *terminal) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.shown.Write(buf[:n])
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown.String()
}

// waitFor waits until the terminal shows the text: what was written last may not have come
// through yet when its writer has ended.
func (t *terminal) waitFor(w *scene.World, text string) {
	w.T.Helper()
	w.Eventually(text+" on the terminal", func() string {
		if shown := t.text(); !strings.Contains(shown, text) {
			return "shown: " + shown // an empty text would mean success
		}
		return ""
	})
}

// enter types at the keyboard.
func (t *terminal) enter(tb testing.TB, keys string) {
	tb.Helper()
	if _, err := t.master.WriteString(keys); err != nil {
		tb.Fatalf("type %q: %v", keys, err)
	}
}

// swapOnTerminal starts a swap as a shell does that was given a window.
func swapOnTerminal(t *testing.T, w *scene.World, more ...string) (*terminal, *scene.Run) {
	t.Helper()
	tty := newTerminal(t, w)
	run := w.Start(scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm"}},
		append([]string{w.Lab.Bin.Teleswap, "swap", "web", "--"}, probe(w, more...)...)...)
	_ = tty.slave.Close() // the command has its own; ours would keep the terminal alive
	w.Eventually("the swap on the terminal", func() string {
		if shown := tty.text(); !strings.Contains(shown, "swapped: deployment/") {
			if run.Exited() {
				t.Fatalf("ended before it was swapped:\n%s", shown)
			}
			return "shown: " + shown
		}
		return ""
	})
	return tty, run
}

// TestRestoreOnTerminalCtrlC types Ctrl-C.
func TestRestoreOnTerminalCtrlC(t *testing.T) {
	w, c := webWorld(t)
	load := c.StartLoad("http://web/api")
	load.WaitOriginal(50)
	tty, run := swapOnTerminal(t, w, "-drain")
	load.WaitSwapped(100)
	tty.enter(t, "\x03")
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
	load.WaitOriginal(100)
	load.Stop().NoneFailed(t)
	tty.waitFor(w, "restored:")
	if n := strings.Count(tty.text(), "signal interrupt"); n != 1 {
		t.Errorf("the process got SIGINT %d times, want once; terminal:\n%s", n, tty.text())
	}
}

// TestRestoreOnTerminalClosed closes the window.
func TestRestoreOnTerminalClosed(t *testing.T) {
	w, c := webWorld(t)
	load := c.StartLoad("http://web/api")
	load.WaitOriginal(50)
	tty, run := swapOnTerminal(t, w, "-drain")
	load.WaitSwapped(100)
	if err := tty.master.Close(); err != nil {
		t.Fatalf("close the terminal: %v", err)
	}
	run.Wait() // nobody is there to see the status
	w.WaitUnchanged()
	load.WaitOriginal(100)
	load.Stop().NoneFailed(t)
}

// TestSwapInteractiveShell types into a shell that is in the pod's place: the terminal is the
// shell's, job control included.
func TestSwapInteractiveShell(t *testing.T) {
	w := newWorld(t)
	w.Apply(noPortScene)
	w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	tty := newTerminal(t, w)
	run := w.Start(scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm", "PS1=$ "}},
		w.Lab.Bin.Teleswap, "swap", "worker", "--", "/bin/bash", "--norc", "-i")
	_ = tty.slave.Close() // the command has its own
	tty.waitFor(w, "swapped: deployment/")
	tty.enter(t, "sleep 1000\n")
	w.Eventually("the shell's own child", func() string {
		for _, p := range w.Processes() {
			if p.Args[0] == "sleep" {
				return ""
			}
		}
		return "shown: " + tty.text()
	})
	tty.enter(t, "\x03") // is sleep's, and nobody else's: it is the foreground job
	w.Eventually("the shell's child to be gone", func() string {
		for _, p := range w.Processes() {
			if p.Args[0] == "sleep" {
				return p.String()
			}
		}
		return ""
	})
	tty.enter(t, "echo still $((40+2)) here; exit 5\n")
	run.WaitEnd(5)
	tty.waitFor(w, "restored:")
	contains(t, "the terminal", tty.text(), "still 42 here")
	if strings.Contains(tty.text(), "no job control") {
		t.Errorf("the shell has no job control:\n%s", tty.text())
	}
}
