package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/teleswap/teleswap/daemon/api"
)

// using is a session that uses a connection without a command of its own: what it does, the daemon does. Its loop is the only goroutine that
// touches it.
type using struct {
	app    *app
	ui     *progress
	stream grpc.BidiStreamingClient[api.ConnectUp, api.Event]
	words  useWords

	session string
	begun   os.Signal // the first signal that ended it
	active  bool
	failed  error // of what was to be said
}

// useWords are what is said of such a session.
type useWords struct {
	// active says that it works; end is how it is ended.
	active func(ui *progress, m *api.Active, end string) error
	// ending is the beginning of a line for who is impatient, and ended of the last line; empty: there is none.
	ending, ended string
}

// useHereOrBehind runs a session that has no command, here until Ctrl-C or in the background.
func (a *app) useHereOrBehind(ctx context.Context, detach bool, req *api.ConnectRequest, words useWords) error {
	if detach && a.background == nil {
		return a.detach(ctx)
	}
	return a.use(ctx, req, words)
}

// use runs such a session from its request to its exit status.
func (a *app) use(ctx context.Context, req *api.ConnectRequest, words useWords) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	c, err := a.dialInterruptibly(ctx, signals)
	if err != nil {
		return err
	}
	defer closeQuietly(c)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Connect(ctx)
	if err == nil {
		err = stream.Send(&api.ConnectUp{Message: &api.ConnectUp_Request{Request: req}})
	}
	if err != nil && !errors.Is(err, io.EOF) { // the answer says why the stream has ended
		return callError(err)
	}
	u := &using{app: a, ui: newProgress(a.err), stream: stream, words: words}
	received, receiving := make(chan received), make(chan struct{})
	go func() { // ends with the stream, or with ctx
		defer close(receiving)
		receiveLoop(ctx, stream, received)
	}()
	err = u.loop(received, signals)
	u.ui.stop()
	cancel()
	<-receiving
	if errors.Is(err, errDaemonDied) {
		return a.afterDeath(err)
	}
	return err
}

// errDaemonDied says that a session ended with its daemon.
var errDaemonDied = errors.New("the daemon died, and the connection with it")

// rescuePatience bounds the start of a new daemon after one has died.
const rescuePatience = 30 * time.Second

// afterDeath has a new daemon take away what the dead one has left in the cluster.
func (a *app) afterDeath(died error) error {
	ctx, cancel := context.WithTimeout(context.Background(), rescuePatience)
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return fmt.Errorf("%w, and no new one could be started: %w", died, err)
	}
	closeQuietly(c)
	return fmt.Errorf("%w; its log: %s", died, a.paths.Log)
}

// loop ends with the session, and returns the verdict.
func (u *using) loop(from <-chan received, signals <-chan os.Signal) error {
	for {
		select {
		case r := <-from:
			switch {
			case r.err != nil && api.Broken(r.err):
				return errDaemonDied
			case r.err != nil:
				return callError(r.err)
			}
			if done := r.event.GetDone(); done != nil {
				return u.verdict(done)
			}
			u.event(r.event)
		case sig := <-signals:
			u.signal(sig)
		}
	}
}

func (u *using) event(e *api.Event) {
	u.session = e.GetSession()
	m := e.GetActive()
	if m == nil {
		u.ui.event(e)
		return
	}
	u.active = true
	end := "Ctrl-C"
	if u.app.background != nil {
		end = "`teleswap leave " + u.session + "`"
	}
	u.failed = u.words.active(u.ui, m, end)
	u.app.sayActive(u.session)
}

func (u *using) signal(sig os.Signal) {
	if u.begun != nil {
		u.ui.line("%s; the daemon goes on with it if you kill me", u.words.ending)
		return
	}
	u.begun = sig
	// A stream that is broken shows where it is read.
	_ = u.stream.Send(&api.ConnectUp{Message: &api.ConnectUp_End{End: &api.End{Reason: signalText(sig)}}})
}

// verdict is the session's end as an exit status: who ends it by Ctrl-C has what he wanted.
func (u *using) verdict(d *api.Done) error {
	switch {
	case d.GetUsage():
		return usage("%s", d.GetError())
	case u.begun != nil && !u.active:
		return &exitError{status: signalStatus(u.begun)}
	case d.GetError() != "":
		return errors.New(d.GetError())
	case u.failed != nil:
		return u.failed
	case !u.active:
		return fmt.Errorf("the session ended before it worked: %s", d.GetReason())
	}
	if u.words.ended != "" {
		u.ui.line("%s (%s)", u.words.ended, d.GetReason())
	}
	return nil
}
