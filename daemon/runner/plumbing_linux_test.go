package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// copies is a Tee that keeps what it gets.
type copies struct {
	mu       sync.Mutex
	out, err bytes.Buffer
}

func (c *copies) tee(stderr bool, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stderr {
		c.err.Write(p)
	} else {
		c.out.Write(p)
	}
}

// runTeed runs a shell script with a Tee, its outputs going to out and err, which it closes.
func (l *lab) runTeed(script string, out, err *os.File, c *copies) Exit {
	l.t.Helper()
	spec := l.spec()
	spec.Argv = []string{"/bin/sh", "-c", script}
	p, startErr := Start(l.t.Context(), spec, Stdio{Out: out, Err: err, Tee: c.tee})
	if startErr != nil {
		l.t.Fatal(startErr)
	}
	exit, waitErr := p.Wait()
	if waitErr != nil {
		l.t.Fatal(waitErr)
	}
	_ = out.Close()
	if err != out {
		_ = err.Close()
	}
	return exit
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTee loses nothing of either stream, up to the last byte before the end.
func TestTee(t *testing.T) {
	l := newLab(t, nil)
	out, errs := tempFile(t), tempFile(t)
	var c copies
	exit := l.runTeed(`head -c 3000000 /dev/zero | tr '\0' x; echo to stderr >&2; printf 'no newline'; exit 7`, out, errs, &c)
	if exit.Code != 7 {
		t.Errorf("exit %+v", exit)
	}
	want := strings.Repeat("x", 3000000) + "no newline"
	if got := content(t, out); got != want || c.out.String() != want {
		t.Errorf("got %d bytes and a copy of %d, want %d", len(got), c.out.Len(), len(want))
	}
	if got := content(t, errs); got != "to stderr\n" || c.err.String() != got {
		t.Errorf("standard error %q, copy %q", got, c.err.String())
	}
}

// TestTeeOneFile keeps the order of two streams that go to one place.
func TestTeeOneFile(t *testing.T) {
	l := newLab(t, nil)
	out := tempFile(t)
	var c copies
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "o%d\ne%d\n", i, i)
	}
	l.runTeed(`i=0; while [ $i -lt 300 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done`, out, out, &c)
	if got := content(t, out); got != want.String() || c.out.String() != got {
		t.Errorf("got %.100q…, copy %.100q…, want %.100q…", got, c.out.String(), want.String())
	}
}

// TestTeeReaderGone has the command end by SIGPIPE, as it does when it writes to the pipe itself.
func TestTeeReaderGone(t *testing.T) {
	l := newLab(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var c copies
	_ = r.Close()
	if exit := l.runTeed(`while :; do echo y; done`, w, tempFile(t), &c); exit.Signal != syscall.SIGPIPE {
		t.Errorf("exit %+v, want by SIGPIPE", exit)
	}
}

// TestTeeCallerKilled lets the command write while it ends, although nobody reads any more.
func TestTeeCallerKilled(t *testing.T) {
	l := newLab(t, nil)
	t.Setenv(teeEnv, "1")
	file := filepath.Join(t.TempDir(), "ended")
	spec := l.spec()
	spec.Argv = []string{"/bin/sh", "-c", `trap 'head -c 300000 /dev/zero || exit; echo bye >&2 || exit; echo > "$0"; exit' TERM; echo ready; while :; do sleep 0.05; done`, file}
	c := l.startCLI(spec)
	c.want("ready")
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command to end in its own way", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	eventually(t, "the sandbox to be gone", func() bool { return unix.Kill(c.init, 0) != nil })
}

func TestPlainNewlines(t *testing.T) {
	var got bytes.Buffer
	note := plainNewlines(func(b []byte) { got.Write(b) })
	for _, part := range []string{"a\r\nb\r", "\nc\r", "d\r\r\n", "e"} {
		note([]byte(part))
	}
	if want := "a\nb\nc\rd\r\ne"; got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
}

// TestTeeTerminal has the command see terminals where the caller has some, here without a terminal at its input.
func TestTeeTerminal(t *testing.T) {
	l := newLab(t, nil)
	master, slave, err := openPairOf(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	shown := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(master)
		shown <- string(b)
	}()
	var c copies
	errs := tempFile(t)
	exit := l.runTeed(`test -t 1 && ! test -t 2 && stty size <&1 && echo yes`, slave, errs, &c)
	if exit.Code != 0 {
		t.Errorf("exit %+v, standard error %s", exit, content(t, errs))
	}
	if got, want := <-shown, "33 77\r\nyes\r\n"; got != want {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
	if got, want := c.out.String(), "33 77\nyes\n"; got != want {
		t.Errorf("copy %q, want %q", got, want)
	}
	_ = master.Close()
}

// openPairOf makes a terminal with the kernel's own settings.
func openPairOf(t *testing.T) (master, slave *os.File, err error) {
	t.Helper()
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
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
		return nil
	})
	return master, slave, err
}

// TestHeldLeavesNothing: when one of our ends cannot be doubled, those that were are closed with the rest.
func TestHeldLeavesNothing(t *testing.T) {
	good, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	bad, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{w, w2, bad} {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p := &plumbing{sources: []*os.File{good, bad}}
	if _, err := p.held(); err == nil {
		t.Fatal("a closed file was doubled")
	}
	if len(p.given) != 1 {
		t.Fatalf("%d files are to be closed, want the first's double", len(p.given))
	}
	double := p.given[0]
	p.abandon()
	if _, err := double.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the double is still open: %v", err)
	}
	_ = good.Close()
}
