package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/project"
	"github.com/teleswap/teleswap/proxy/accept"
)

// upping is `teleswap up`: the swaps that it has started, each a process of its own. Its loop is the only goroutine that
// touches it; the others speak to it through events.
type upping struct {
	view      *upView
	sessions  []*upSession
	socket    string
	args      []string // further flags of each swap
	keepGoing bool

	events chan upEvent
	over   chan struct{} // closed when nobody listens to events any more

	ending string // the order that was given to all; empty: none yet
	asked  bool   // it was the user's wish
	status int    // of the first that failed
	failed []string
}

// upSession is one of them.
type upSession struct {
	project.Session
	cmd  *exec.Cmd
	conn net.Conn // nil before it has said who it is, and after it has hung up

	swapped bool
	itself  bool // it began to end before it was told to
	ended   bool // its process has
	verdict *upEnding
	exit    error // what waiting for the process said
	over    bool  // nothing more will come
}

// upEvent is something that happened to a session.
type upEvent struct {
	session *upSession
	pid     int      // of the one whose first word came by conn; the session is not known yet
	conn    net.Conn // not nil: it is there
	orders  *json.Decoder

	report *upReport
	hungUp bool
	exited bool
	err    error
}

// up starts sessions and returns when the last has ended.
func (a *app) up(ctx context.Context, sessions []project.Session, args []string, keepGoing bool) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	// One daemon for all; what hinders it is said once.
	c, err := a.dialInterruptibly(ctx, signals)
	if err != nil {
		return err
	}
	defer closeQuietly(c)
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	u := newUpping(newUpView(a.streams, sessions), args, keepGoing)
	return u.run(exe, a.paths.Dir, sessions, signals)
}

func newUpping(view *upView, args []string, keepGoing bool) *upping {
	return &upping{view: view, args: args, keepGoing: keepGoing, events: make(chan upEvent), over: make(chan struct{})}
}

// run starts the sessions, as processes of exe, and returns when the last has ended; their socket is in dir.
func (u *upping) run(exe, dir string, sessions []project.Session, signals <-chan os.Signal) error {
	listener, err := listenUp(dir)
	if err != nil {
		return err
	}
	u.socket = listener.Addr().String()
	accepting := make(chan struct{})
	go func() { // ends with the listener
		defer close(accepting)
		u.acceptLoop(listener)
	}()
	for _, s := range sessions { // all, before the first may fail
		u.sessions = append(u.sessions, &upSession{Session: s})
	}
	for _, s := range u.sessions {
		u.start(exe, s)
	}
	u.loop(signals)
	close(u.over)
	closeQuietly(listener)
	<-accepting
	u.view.close()
	return u.verdict()
}

// upSockets are the sockets of all that run.
const upSockets = "up-*.sock"

// listenUp makes the socket that the swaps speak to. Those of others that were killed are taken away.
func listenUp(dir string) (net.Listener, error) {
	left, _ := filepath.Glob(filepath.Join(dir, upSockets)) // the pattern is a good one
	for _, path := range left {
		conn, err := net.Dial("unix", path)
		if err == nil {
			closeQuietly(conn)
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path) // or somebody else has
		}
	}
	path := filepath.Join(dir, strings.Replace(upSockets, "*", fmt.Sprint(os.Getpid()), 1))
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the sessions: %w", err)
	}
	return listener, nil
}

// send gives an event to the loop; false when it has ended.
func (u *upping) send(e upEvent) bool {
	select {
	case u.events <- e:
		return true
	case <-u.over:
		return false
	}
}

// acceptLoop ends when the listener is closed. Each connection is read by a goroutine that ends with it.
func (u *upping) acceptLoop(listener net.Listener) {
	accept.Loop(listener, func(error) {}, func(conn net.Conn) {
		go func() {
			orders := json.NewDecoder(conn)
			var first upReport
			_ = conn.SetReadDeadline(time.Now().Add(upPatience))
			if orders.Decode(&first) != nil || conn.SetReadDeadline(time.Time{}) != nil ||
				!u.send(upEvent{pid: first.PID, conn: conn, orders: orders}) {
				closeQuietly(conn)
			}
		}()
	})
}

// hearLoop passes on what a session reports; it ends with the connection, which it closes.
func (u *upping) hearLoop(s *upSession, conn net.Conn, reports *json.Decoder) {
	for {
		var r upReport
		if err := reports.Decode(&r); err != nil {
			closeQuietly(conn) // the session waits for that
			u.send(upEvent{session: s, hungUp: true})
			return
		}
		if !u.send(upEvent{session: s, report: &r}) {
			closeQuietly(conn)
			return
		}
	}
}

// start starts a session's process, in a group of its own, so that the keyboard's signals come by us.
func (u *upping) start(exe string, s *upSession) {
	s.cmd = exec.Command(exe, s.Args(append([]string{"--" + overseerFlag + "=" + u.socket}, u.args...)...)...) //nolint:gosec // ourselves
	s.cmd.Dir, s.cmd.Env = s.Dir, sessionEnviron(os.Environ())
	s.cmd.SysProcAttr = ownGroup()
	// What the session's process leaves behind may hold its streams; it must not hold us.
	s.cmd.WaitDelay = upPatience
	out, errs := u.view.writer(s.Name, false), u.view.writer(s.Name, true)
	s.cmd.Stdout, s.cmd.Stderr = out, errs
	if err := s.cmd.Start(); err != nil {
		u.view.say(s.Name, "it cannot be started: "+err.Error())
		s.ended, s.exit = true, err
		u.settle(s)
		return
	}
	go func() { // ends with the process
		err := s.cmd.Wait()
		out.flush()
		errs.flush()
		u.send(upEvent{session: s, exited: true, err: err})
	}()
}

// loop ends when all sessions have.
func (u *upping) loop(signals <-chan os.Signal) {
	tick := u.view.ticks()
	defer tick.Stop()
	for u.alive() > 0 {
		select {
		case e := <-u.events:
			u.event(e)
		case sig := <-signals:
			u.signal(sig)
		case <-tick.C:
			u.view.draw()
		}
	}
}

func (u *upping) alive() int {
	n := 0
	for _, s := range u.sessions {
		if !s.over {
			n++
		}
	}
	return n
}

func (u *upping) event(e upEvent) {
	s := e.session
	switch {
	case e.conn != nil:
		u.connected(e)
	case e.report != nil:
		u.reported(s, e.report)
	case e.hungUp:
		s.conn = nil
		u.settle(s)
	case e.exited:
		s.ended, s.exit = true, e.err
		u.settle(s)
	}
}

// connected finds whose connection it is, and says the first word.
func (u *upping) connected(e upEvent) {
	for _, s := range u.sessions {
		if s.cmd.Process == nil || s.cmd.Process.Pid != e.pid || s.conn != nil || s.over {
			continue
		}
		s.conn = e.conn
		go u.hearLoop(s, e.conn, e.orders)
		u.order(s, upOrder{Env: s.Env})
		if u.ending != "" {
			u.order(s, upOrder{End: u.ending})
		}
		return
	}
	closeQuietly(e.conn)
}

// order tells a session something; where that fails it has hung up, which its reader says.
func (u *upping) order(s *upSession, o upOrder) {
	if s.conn == nil {
		return
	}
	line, err := json.Marshal(o)
	if err != nil {
		return // texts can always be encoded
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(upPatience))
	_, _ = s.conn.Write(append(line, '\n'))
}

func (u *upping) reported(s *upSession, r *upReport) {
	switch {
	case r.Step != nil && r.Step.Begins:
		u.view.set(s.Name, stageStarting, r.Step.Name)
	case r.Step != nil:
		u.view.step(s.Name, r.Step)
	case r.Line != "":
		u.view.say(s.Name, r.Line)
	case r.End != nil:
		s.verdict = r.End
	case r.Stage != "":
		s.swapped = s.swapped || r.Stage == stageSwapped
		s.itself = s.itself || r.Stage == stageRestoring && u.ending == ""
		u.view.set(s.Name, r.Stage, "")
		u.allSwapped(r.Stage)
	}
}

// allSwapped says so, once.
func (u *upping) allSwapped(stage upStage) {
	if stage != stageSwapped || len(u.sessions) < 2 {
		return
	}
	for _, s := range u.sessions {
		if !s.swapped {
			return
		}
	}
	u.view.say("", fmt.Sprintf("all %d sessions are swapped; Ctrl-C ends them", len(u.sessions)))
}

// signal is the user's or the system's wish to end; once more is a wish to hurry.
func (u *upping) signal(sig os.Signal) {
	if u.asked {
		u.view.say("", fmt.Sprintf("hurrying %s", countSessions(u.alive())))
	} else {
		u.view.say("", fmt.Sprintf("%s: ending %s; once more hurries", signalText(sig), countSessions(u.alive())))
	}
	u.asked = true
	u.endAll(endingName(sig))
}

func (u *upping) endAll(order string) {
	u.ending = order
	for _, s := range u.sessions {
		u.order(s, upOrder{End: order})
	}
}

// settle judges a session of which nothing more will come.
func (u *upping) settle(s *upSession) {
	if !s.ended || s.conn != nil || s.over {
		return
	}
	s.over = true
	status, clean := u.statusOf(s)
	switch {
	case status == 0 || clean && u.ending != "" && !s.itself:
		u.view.set(s.Name, stageEnded, "")
		return
	case u.status == 0:
		u.status = status
	}
	u.failed = append(u.failed, fmt.Sprintf("%s (exit status %d)", s.Name, status))
	u.view.set(s.Name, stageFailed, fmt.Sprintf("exit status %d", status))
	if u.swappedOnce() || u.ending != "" || u.keepGoing || u.alive() == 0 {
		return
	}
	u.view.say("", fmt.Sprintf("%s failed before all were swapped: ending the others (--keep-going lets them be)", s.Name))
	u.endAll("terminated")
}

// swappedOnce says that every session has been swapped.
func (u *upping) swappedOnce() bool {
	for _, s := range u.sessions {
		if !s.swapped {
			return false
		}
	}
	return true
}

// statusOf is a session's exit status; clean says that nothing but its process's own status was wrong.
func (u *upping) statusOf(s *upSession) (status int, clean bool) {
	if s.verdict != nil {
		return s.verdict.Status, s.verdict.Clean
	}
	var exit *exec.ExitError
	switch {
	case s.exit == nil || errors.Is(s.exit, exec.ErrWaitDelay):
		return 0, true
	case errors.As(s.exit, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), false
	case errors.As(s.exit, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return statusSignal + int(ws.Signal()), false
		}
	}
	return statusFailure, false
}

// verdict is the exit status of all.
func (u *upping) verdict() error {
	if u.status == 0 {
		return nil
	}
	return &exitError{u.status, fmt.Errorf("%d of %s failed: %s", len(u.failed), countSessions(len(u.sessions)), strings.Join(u.failed, ", "))}
}

func countSessions(n int) string {
	if n == 1 {
		return "1 session"
	}
	return fmt.Sprintf("%d sessions", n)
}
