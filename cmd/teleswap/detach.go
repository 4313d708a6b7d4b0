package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// detachedVariable tells this program, started again, that it is a swap in the background: on which descriptor it says
	// that it is active. It never reaches the user's command.
	detachedVariable = "TELESWAP_DETACHED_FD"
	// outputDir is where the outputs of swaps in the background are, below the state directory.
	outputDir = "output"
	// outputKept is how long they stay.
	outputKept = 7 * 24 * time.Hour
	// followEvery is how often the first one looks at what the second has written.
	followEvery = 50 * time.Millisecond
)

// takeDetached is where a swap in the background says that it is active; nil: this is none.
func takeDetached() *os.File {
	text, set := os.LookupEnv(detachedVariable)
	if !set {
		return nil
	}
	_ = os.Unsetenv(detachedVariable) // it can only fail for a name that is none
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil
	}
	closeInherited(fd) // nobody of the foreground is to wait for us
	return os.NewFile(uintptr(fd), "background")
}

// sayActive tells the swap in the foreground that it may go. It does nothing where there is none.
func (a *app) sayActive(session string) {
	if a.background == nil {
		return
	}
	// Who does not listen any more has gone.
	_, _ = fmt.Fprintln(a.background, session)
	closeQuietly(a.background)
	a.background = nil
}

// detach starts this command line again in the background, shows what that writes until it is active or has ended, and
// prints the session's id. It passes the signals on that end it before that.
func (a *app) detach(ctx context.Context) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	out, err := newOutput(filepath.Join(a.state, outputDir))
	if err != nil {
		return err
	}
	b, err := startBackground(out)
	if err != nil {
		return errors.Join(err, out.Close(), os.Remove(out.Name()))
	}
	defer closeQuietly(out)
	ended := make(chan error, 1)
	go func() { ended <- b.cmd.Wait() }() // ends with the swap, or with us
	active := make(chan string, 1)
	go func() { active <- b.hear() }() // likewise
	var shown int64
	show := func() { shown += showFrom(a.err, out, shown) }
	look := time.NewTicker(followEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			show()
		case <-signals:
			// Whatever it was: the session ends, and this command with it.
			_ = b.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
		case id := <-active:
			if id == "" { // it ends without having been active
				active = nil
				continue
			}
			show()
			return a.leaveBackground(id, out.Name())
		case err := <-ended:
			show()
			if active != nil {
				if id := <-active; id != "" { // it was, for a moment
					return a.leaveBackground(id, out.Name())
				}
			}
			return errors.Join(backgroundError(err), withoutPath(os.Remove(out.Name())))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leaveBackground says what runs now in the background.
func (a *app) leaveBackground(id, output string) error {
	named := filepath.Join(filepath.Dir(output), id+".log")
	if err := os.Rename(output, named); err != nil {
		named = output
	}
	fmt.Fprintf(a.err, "in the background: `teleswap leave %s` ends it; its output goes to %s\n", id, named)
	_, err := fmt.Fprintln(a.out, id)
	return err
}

// backgroundError is the end of a swap that has never been active.
func backgroundError(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return errors.New("the session ended before it was active")
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return &exitError{status: exit.ExitCode()}
	}
	return fmt.Errorf("the session ended before it was active: %w", err)
}

// background is this program, started again.
type background struct {
	cmd *exec.Cmd
	say *os.File
}

func startBackground(out *os.File) (*background, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start in the background: %w", err)
	}
	cmd := exec.Command(exe, os.Args[1:]...) //nolint:gosec // ourselves
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), detachedVariable+"=3")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = detached()
	err = errors.Join(cmd.Start(), w.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start in the background: %w", err), r.Close())
	}
	return &background{cmd, r}, nil
}

// hear returns the session's id once it is active; empty: it will not be.
func (b *background) hear() string {
	text, err := io.ReadAll(b.say)
	if err = errors.Join(err, b.say.Close()); err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// showFrom shows what a file has beyond an offset, and returns how much that was.
func showFrom(to io.Writer, f *os.File, at int64) int64 {
	var text bytes.Buffer
	_, _ = io.Copy(&text, io.NewSectionReader(f, at, 1<<62))
	n, _ := to.Write(text.Bytes())
	return int64(n)
}

// newOutput makes the file for a swap's output, and removes old ones. It may hold what only its user is to see.
func newOutput(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a place for the output: %w", err)
	}
	old := time.Now().Add(-outputKept)
	entries, _ := os.ReadDir(dir) // what cannot be listed cannot be removed either
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.ModTime().Before(old) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	f, err := os.CreateTemp(dir, "starting-*.log")
	if err != nil {
		return nil, fmt.Errorf("make a file for the output: %w", err)
	}
	return f, nil
}
