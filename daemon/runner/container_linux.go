package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/teleswap/teleswap/daemon/docker"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

const (
	// removal bounds what Docker may take to end and remove a container.
	removal = 30 * time.Second
	// dockerFailed is docker run's exit status where it could not start the container.
	dockerFailed = 125
	// keepersWord is how long the keeper may take to say what has become of a container that has ended, and Docker to kill one.
	keepersWord = 5 * time.Second
)

// Container is a command that runs in a container, by docker run. Its methods are safe for concurrent use.
//
// Docker's client has a terminal of its own where the caller has one, and is otherwise not in the caller's process group:
// what a terminal sends reaches the command by Signal. When the caller dies, the command gets SIGTERM, and 10 s later
// SIGKILL.
type Container struct {
	spec   ContainerSpec
	keeper *client // docker run of the keeper
	user   *client // docker run of the user's container
	ctl    *sandbox.Control
	pid    int
	// grouped says that docker's client is in our process group after all, as it is to read the terminal's keys.
	grouped  bool
	plumbing *plumbing

	hooks  sync.Mutex // one at a time
	hooked chan error // how a hook ended
	gone   chan struct{}
	ended  chan struct{} // closed once exit and err are set
	exit   Exit
	err    error
}

// client is a run of docker's. done is closed when it has ended, with err.
type client struct {
	name string // of the container
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	said docker.LastWords
}

// start starts it; the goroutine ends with it.
func (c *client) start() error {
	c.done = make(chan struct{})
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start docker: %w", err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return nil
}

// StartContainer makes the sandbox, waits until the daemon has taken it over, and runs the container in it. ctx bounds the
// start only; when it ends earlier nothing is left. The caller must call Wait.
func StartContainer(ctx context.Context, spec ContainerSpec, stdio Stdio) (*Container, error) {
	c := &Container{
		spec: spec, hooked: make(chan error, 1), gone: make(chan struct{}), ended: make(chan struct{}),
		keeper: &client{name: spec.keeperName()}, user: &client{name: spec.Name()},
	}
	c.spec.Sandbox.Container = &sandbox.Container{Own: spec.Own, Places: spec.Run.Places}
	err := c.startKeeper(ctx)
	if err == nil {
		err = c.startUser(ctx, stdio)
	}
	if err != nil {
		if c.ctl != nil {
			_ = c.ctl.Close() // the sign for the keeper to end all
		}
		c.await(c.user)
		c.await(c.keeper)
		if ctx.Err() != nil {
			err = fmt.Errorf("start the container: %w", ctx.Err())
		}
		return nil, err
	}
	go c.watch()
	return c, nil
}

// startKeeper returns when there is a network for the container.
func (c *Container) startKeeper(ctx context.Context) error {
	control := filepath.Join(c.spec.Dir, "c-"+c.spec.Sandbox.Session)
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: control, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the container's keeper: %w", err)
	}
	defer func() { _ = lis.Close() }()
	if err := os.Chmod(control, 0o600); err != nil {
		return fmt.Errorf("listen for the container's keeper: %w", err)
	}
	c.keeper.cmd = exec.Command(c.spec.Client.Path, c.spec.keeperWords(control)...) //nolint:gosec // docker
	c.keeper.cmd.Stdout, c.keeper.cmd.Stderr = &c.keeper.said, &c.keeper.said
	c.keeper.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's signals are not for it
	if err := c.keeper.start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = lis.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	go func() { // ends with docker's client, and that with the keeper
		<-c.keeper.done
		_ = lis.SetDeadline(time.Unix(1, 0))
	}()
	conn, err := lis.AcceptUnix()
	if err != nil {
		// Docker may be about to start it.
		c.kill(c.spec.keeperName())
		return fmt.Errorf("start the container's network: %s", c.keeper.said.Or(err))
	}
	f, err := conn.File()
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("speak with the container's keeper: %w", err)
	}
	if c.ctl, err = sandbox.NewControl(f); err != nil {
		return err
	}
	if err := c.ctl.Send(sandbox.Order{Spec: &c.spec.Sandbox}); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.ctl.Close() })()
	r, err := c.report()
	if err == nil && !r.Ready {
		err = errors.New("the container's keeper did not make its network")
	}
	return err
}

// report is the keeper's next word.
func (c *Container) report() (sandbox.Report, error) {
	var r sandbox.Report
	if err := c.ctl.Receive(&r); err != nil {
		return r, fmt.Errorf("the container's keeper ended: %s", c.keeper.said.Or(err))
	}
	if r.Failed != "" {
		return r, errors.New(r.Failed)
	}
	return r, nil
}

// startUser runs the user's container, and returns when its command has started.
func (c *Container) startUser(ctx context.Context, stdio Stdio) error {
	if stdio.Tee == nil { // a terminal of its own all the same
		stdio.Tee = func(bool, []byte) {}
	}
	pl, err := plumb(stdio)
	if err != nil {
		return err
	}
	cmd := exec.Command(c.spec.Client.Path, c.spec.words()...) //nolint:gosec // docker
	cmd.SysProcAttr = c.place(pl, stdio)
	if pl.in != nil {
		cmd.Stdin = pl.in
	}
	if pl.out != nil {
		cmd.Stdout = pl.out
	}
	if pl.err != nil {
		cmd.Stderr = pl.err
	}
	c.user.cmd = cmd
	if err := c.user.start(); err != nil {
		pl.abandon()
		return err
	}
	pl.started(cmd.Process.Pid, func() {})
	c.plumbing = pl
	defer context.AfterFunc(ctx, func() { _ = c.ctl.Close() })()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with the start, or with docker's client
		select {
		case <-c.user.done:
		case <-stop:
			return
		}
		// A command that is quick has ended before we hear that it began; the keeper ends then, too.
		late := time.NewTimer(keepersWord)
		defer late.Stop()
		if c.user.cmd.ProcessState.ExitCode() != dockerFailed {
			select {
			case <-late.C:
			case <-stop:
				return
			}
		}
		_ = c.ctl.Close() // it was never started
	}()
	r, err := c.report()
	if err == nil && r.Started != 0 {
		c.pid = r.Started
		return nil
	}
	select {
	case <-c.user.done:
		if r.Failed == "" {
			err = fmt.Errorf("docker run ended with status %d, and has said why", c.user.cmd.ProcessState.ExitCode())
		}
	default:
	}
	c.await(c.user)
	pl.finish()
	if err == nil {
		err = errors.New("the container's keeper did not say that the command started")
	}
	return err
}

// place is where docker's client runs: in a session of its own, with the terminal made for it; or in a process group of its
// own, so that what the caller's terminal sends comes once, by Signal. Only where it reads a terminal that it shares with
// us it stays with us, for who reads in the background is stopped.
func (c *Container) place(pl *plumbing, stdio Stdio) *syscall.SysProcAttr {
	if pl.terminal != nil {
		return &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	c.grouped = c.spec.Run.Interactive && stdio.In != nil && term.IsTerminal(int(stdio.In.Fd()))
	return &syscall.SysProcAttr{Setpgid: !c.grouped}
}

// await waits for one of docker's clients, and ends it when Docker does not.
func (c *Container) await(cl *client) {
	if cl.done == nil || cl.cmd.Process == nil {
		return
	}
	late := time.NewTimer(removal)
	defer late.Stop()
	select {
	case <-cl.done:
		return
	case <-late.C:
	}
	c.kill(cl.name)
	late.Reset(keepersWord)
	select {
	case <-cl.done:
	case <-late.C:
		_ = cl.cmd.Process.Kill()
		<-cl.done
	}
}

// kill has Docker kill a container, if it is there. A daemon that does not answer is not waited for.
func (c *Container) kill(name string) {
	cmd := exec.Command(c.spec.Client.Path, "kill", name) //nolint:gosec,noctx // docker; it is bounded below
	cmd.WaitDelay = time.Second                           // for what docker has started
	if cmd.Start() != nil {
		return
	}
	late := time.AfterFunc(keepersWord, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
}

// watch waits for the end of the container, and then of its keeper.
func (c *Container) watch() {
	defer close(c.ended)
	go c.listen()
	select {
	case <-c.user.done:
	case <-c.gone: // the keeper, and with it the network
		c.kill(c.spec.Name())
		c.await(c.user)
	}
	c.plumbing.finish()
	_ = c.ctl.Close()
	c.await(c.keeper)
	<-c.gone
	var status *exec.ExitError
	switch err := c.user.err; {
	case err == nil:
	case errors.As(err, &status):
		c.exit = Exit{Code: status.ExitCode()}
		if ws, ok := status.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			c.exit = Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
		}
	default:
		c.err = fmt.Errorf("wait for docker run: %w", err)
	}
}

// listen hears the keeper until it has gone.
func (c *Container) listen() {
	defer close(c.gone)
	for {
		var r sandbox.Report
		if c.ctl.Receive(&r) != nil {
			return
		}
		if r.HookEnded {
			c.hooked <- hookError(r.HookError)
		}
	}
}

// Pid is the process id of the container's command, as this machine knows it.
func (c *Container) Pid() int { return c.pid }

// Name is the container's, for docker exec.
func (c *Container) Name() string { return c.spec.Name() }

// Done is closed when the container and its keeper have ended.
func (c *Container) Done() <-chan struct{} { return c.ended }

// Wait waits until the container and its keeper have ended. It may be called many times.
func (c *Container) Wait() (Exit, error) {
	<-c.ended
	return c.exit, c.err
}

// OwnTerminal is as Process's.
func (c *Container) OwnTerminal() bool { return c.plumbing.terminal != nil }

// Keys is as Process's. With -t the keys are the command's alone.
func (c *Container) Keys() <-chan os.Signal {
	if c.plumbing.terminal == nil {
		return nil
	}
	return c.plumbing.terminal.keys
}

// Signal sends sig to the container's first process, as docker kill does; for SIGTERM the image or the user may have named
// another signal, as for docker stop. It returns os.ErrProcessDone when the container has ended.
func (c *Container) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok || s <= 0 {
		return fmt.Errorf("signal the container: %v is no signal of this system", sig)
	}
	if c.grouped && (s == unix.SIGINT || s == unix.SIGQUIT) {
		return nil // the terminal has sent it to docker's client, which passes it on
	}
	if s == unix.SIGTERM {
		s = stopSignal(c.spec.Run.StopSignal, c.spec.Image.Config.StopSignal)
	}
	return tell(c.ctl, c.ended, sandbox.Order{Signal: s})
}

// stopSignal is the first of the names or numbers that is a signal's; SIGTERM if none is.
func stopSignal(names ...string) syscall.Signal {
	for _, name := range names {
		name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
		if s := unix.SignalNum("SIG" + name); s != 0 {
			return s
		}
		var n int
		if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n < 65 {
			return syscall.Signal(n)
		}
	}
	return unix.SIGTERM
}

// RunHook is as Process's: a command runs in the container, by docker exec; a request is made from its network.
func (c *Container) RunHook(h Hook) error {
	c.hooks.Lock()
	defer c.hooks.Unlock()
	if len(h.Argv) > 0 {
		return c.execHook(h.Argv)
	}
	if err := tell(c.ctl, c.ended, sandbox.Order{Hook: &h}); err != nil {
		return err
	}
	select {
	case err := <-c.hooked:
		return err
	case <-c.ended:
		return os.ErrProcessDone
	}
}

// execHook shows what the hook writes where docker's own errors go.
func (c *Container) execHook(argv []string) error {
	cmd := exec.Command(c.spec.Client.Path, ExecWords(c.Name(), nil, argv)...) //nolint:gosec // docker
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said docker.LastWords
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	select {
	case <-c.ended:
		return os.ErrProcessDone
	default:
	}
	var status *exec.ExitError
	if errors.As(err, &status) {
		return fmt.Errorf("it ended with status %d: %s", status.ExitCode(), said.Or(err))
	}
	return err
}
