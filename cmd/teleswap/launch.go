package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/teleswap/teleswap/daemon"
	"github.com/teleswap/teleswap/daemon/api"
)

// The lines of the pipe between a starting daemon and the command that started it.
const (
	saySaying = "say "
	sayReady  = "ready"
	sayFailed = "failed "
)

// errNoDaemon says that there is no daemon, and none was started.
var errNoDaemon = errors.New("the daemon is not running")

// maxLog is when the daemon's log begins anew; one old log is kept.
const maxLog = 4 << 20

// dial connects to the daemon, and starts it where it does not run. A daemon of
// another version is replaced when it has no sessions.
func (a *app) dial(ctx context.Context) (*api.Client, error) {
	for range 3 {
		c, err := a.dialOrStart(ctx)
		if err != nil {
			return nil, err
		}
		v, err := c.Version(ctx, &api.VersionRequest{})
		switch {
		case err != nil && api.Broken(err): // it was about to go
			closeQuietly(c)
			continue
		case err != nil:
			closeQuietly(c)
			return nil, fmt.Errorf("ask the daemon for its version: %s", api.Text(err))
		case v.GetVersion() == version && v.GetBuild() == buildID():
			return c, nil
		}
		if err := a.replace(ctx, c, v); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the daemon goes whenever it is asked; see " + a.paths.Log)
}

// replace ends a daemon of another version, unless it has sessions to lose.
func (a *app) replace(ctx context.Context, c *api.Client, v *api.VersionReply) error {
	defer closeQuietly(c)
	refuse := fmt.Errorf("the daemon that runs (pid %d) is version %s, this is %s, and it has %s\n"+
		"end it first: `teleswap quit`", v.GetPid(), v.GetVersion(), version, sessionsText(v.GetSessions()))
	if v.GetSessions() > 0 {
		return refuse
	}
	quit, err := c.Quit(ctx, &api.QuitRequest{IfIdle: true})
	for err == nil {
		_, err = quit.Recv()
	}
	if !errors.Is(err, io.EOF) && !api.Broken(err) {
		return refuse
	}
	return nil
}

func (a *app) dialOrStart(ctx context.Context) (*api.Client, error) {
	if err := a.paths.Secure(); err != nil {
		return nil, err
	}
	c, err := api.Dial(ctx, a.paths.Socket)
	if !errors.Is(err, api.ErrNotRunning) {
		return c, err
	}
	// Of two commands that come at once one starts the daemon and the other waits.
	lock, err := api.Lock(ctx, a.paths.Start)
	if err != nil {
		return nil, err
	}
	defer closeQuietly(lock)
	c, err = api.Dial(ctx, a.paths.Socket)
	if !errors.Is(err, api.ErrNotRunning) {
		return c, err
	}
	if err := a.startDaemon(ctx); err != nil {
		return nil, err
	}
	return api.Dial(ctx, a.paths.Socket)
}

// dialSessions connects to the daemon if it runs, or if one that died has left sessions
// behind: the one that is started then restores them. Error: errNoDaemon.
func (a *app) dialSessions(ctx context.Context) (*api.Client, error) {
	c, err := a.dialRunning(ctx)
	if errors.Is(err, errNoDaemon) && daemon.LeftBehind(a.state) {
		return a.dial(ctx)
	}
	return c, err
}

// dialRunning connects to the daemon without starting one. Error: errNoDaemon.
func (a *app) dialRunning(ctx context.Context) (*api.Client, error) {
	if _, err := os.Lstat(a.paths.Dir); errors.Is(err, os.ErrNotExist) {
		return nil, errNoDaemon
	}
	if err := a.paths.Secure(); err != nil {
		return nil, err
	}
	c, err := api.Dial(ctx, a.paths.Socket)
	if errors.Is(err, api.ErrNotRunning) {
		return nil, errNoDaemon
	}
	return c, err
}

// startDaemon starts this program again as the daemon, in a session of its own, and
// waits until it serves. It speaks over a pipe until then.
func (a *app) startDaemon(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	log, err := openLog(a.paths.Log)
	if err != nil {
		return err
	}
	defer closeQuietly(log)
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	defer closeQuietly(r)
	cmd := exec.Command(exe, "daemon") //nolint:gosec // ourselves
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Args = append(cmd.Args, passReport(cmd, w))
	cmd.SysProcAttr = detached()
	err = cmd.Start()
	err = errors.Join(err, w.Close())
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })()
	err = a.hearDaemon(r)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		// It has ended or is about to; its exit status says no more than it did.
		go func() { _ = cmd.Wait() }()
		return fmt.Errorf("the daemon did not start: %w\nits log: %s", err, a.paths.Log)
	}
	return cmd.Process.Release()
}

// hearDaemon reads what a starting daemon says, until it is ready.
func (a *app) hearDaemon(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == sayReady {
			return nil
		}
		if text, ok := strings.CutPrefix(line, saySaying); ok {
			a.told = true
			fmt.Fprintln(a.err, text)
		}
		if text, ok := strings.CutPrefix(line, sayFailed); ok {
			return errors.New(strings.ReplaceAll(text, "\t", "\n"))
		}
	}
	return errors.Join(errors.New("it ended without a word"), lines.Err())
}

// openLog opens the daemon's log for appending; a long one is put aside first.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fmt.Errorf("put the daemon's old log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	return f, nil
}

func closeQuietly(c io.Closer) { _ = c.Close() }

func sessionsText(n int32) string {
	if n == 1 {
		return "a session"
	}
	return fmt.Sprintf("%d sessions", n)
}
