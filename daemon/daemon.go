// Package daemon is the laptop's background process: it owns the sessions, so that a
// swap is restored whatever becomes of the command that began it. Run puts its parts
// together; what a session does is in daemon/session, how commands speak to it in
// daemon/api.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/link"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/session"
)

// Config is what a daemon needs. All fields without a stated zero are needed.
type Config struct {
	Paths      api.Paths
	StateDir   string // the ledger's parent
	Version    string
	Build      string // tells builds of one version apart
	User, Host string // as they will stand in marks
	// Transport is the one way to the agents to take, by its name; empty: the best that works.
	Transport string
	// AloneFor is how long an agent in nobody's place stays in the cluster without this machine; 0 means 5 minutes.
	AloneFor time.Duration
	// Idle is how long a daemon without sessions stays; 0 means 10 minutes.
	Idle time.Duration
	// Say tells whoever started the daemon what it does before it serves. Nil: nobody.
	Say func(line string)
	// Ready is called once, when the daemon serves. Nil: nobody waits.
	Ready  func()
	Logger *slog.Logger // nil discards
}

const (
	defaultIdle = 10 * time.Minute
	// lockPatience is how long an earlier daemon may take to go.
	lockPatience = 5 * time.Second
	// replayPatience is how long commands wait for what a dead daemon has left; longer
	// restores go on while the daemon serves.
	replayPatience = 20 * time.Second
)

// Run serves until ctx ends, Quit is called, or nothing has been asked for a while. It
// then restores every session before it returns. Before it serves it restores what an
// earlier daemon has left.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Say == nil {
		cfg.Say = func(string) {}
	}
	if cfg.Idle <= 0 {
		cfg.Idle = defaultIdle
	}
	if err := cfg.Paths.Secure(); err != nil {
		return err
	}
	lock, err := takeLock(ctx, cfg.Paths.Lock)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	cfg.Logger.Info("daemon starts", "pid", os.Getpid(), "version", cfg.Version, "build", cfg.Build)
	d, err := assemble(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return err
	}
	err = d.serve(ctx)
	cfg.Logger.Info("daemon ends", "error", err)
	return err
}

// takeLock makes this the user's only daemon.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	lock, err := api.Lock(ctx, path)
	if err != nil {
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("another daemon is running (pid %s): %w", pid, err)
	}
	if err := errors.Join(lock.Truncate(0), writePID(lock)); err != nil {
		return nil, errors.Join(fmt.Errorf("write the daemon's pid: %w", err), lock.Close())
	}
	return lock, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}

// daemon is the parts of a running daemon.
type daemon struct {
	cfg      Config
	log      *slog.Logger
	files    string // see sweptFilesDir
	sessions *session.Manager
	hub      *connect.Hub
	boxes    *boxes
	wardens  *warden.Listener
	server   *grpc.Server
	service  *service
}

// LeftBehind tells whether a ledger holds sessions: those of a living daemon, or what a
// dead one has left.
func LeftBehind(stateDir string) bool {
	records, err := filepath.Glob(filepath.Join(ledgerDir(stateDir), "*.json"))
	return err == nil && len(records) > 0
}

func ledgerDir(stateDir string) string { return filepath.Join(stateDir, "sessions") }

// assemble opens what must be there before anything is replayed or served.
func assemble(life context.Context, cfg Config) (*daemon, error) {
	book, err := ledger.Open(ledgerDir(cfg.StateDir))
	if err != nil {
		return nil, err
	}
	handoffs, err := sandbox.ListenHandoff(life, cfg.Paths.Handoff, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("listen for sandboxes: %w", err)
	}
	files, err := sweptFilesDir(cfg)
	if err != nil {
		return nil, errors.Join(err, handoffs.Close())
	}
	wardens, err := warden.ListenWardens(cfg.Paths.Warden)
	if err != nil {
		leaveFilesDir(files)
		return nil, errors.Join(err, handoffs.Close())
	}
	links := &link.Dialer{Only: cfg.Transport}
	d := &daemon{cfg: cfg, log: cfg.Logger, files: files, boxes: newBoxes(handoffs, cfg.Logger), wardens: wardens}
	d.sessions = session.NewManager(session.Config{
		Connect: connector(cfg),
		Redact: func(data json.RawMessage, c session.Cluster, namespace string) (json.RawMessage, error) {
			return redact(data, c, namespace)
		},
		Check: sandbox.Check,
		Dial:  session.LinkDialer{Dialer: links}.Dial,
		Acquire: func(ctx context.Context, req connect.Request, notify connect.Notify) (*connect.Lease, error) {
			return d.hub.Acquire(ctx, req, notify)
		},
		FilesDir: files,
		Keys:     keyStore{cfg.Paths.Dir},
		Ledger:   sessionLedger{book},
		Boxes:    d.boxes,
		User:     cfg.User,
		Host:     cfg.Host,
		UID:      os.Geteuid(),
		Now:      time.Now,
		Logger:   cfg.Logger,
	})
	d.hub = newHub(life, cfg, links, book, d.sessions.Adopt)
	d.service = newService(cfg, d.sessions, &wholes{wardens: wardens, namespaces: d.sessions.Namespaces, log: cfg.Logger})
	d.server = api.NewServer(d.service)
	return d, nil
}

// serve replays, serves, and ends in order: no new sessions, all restored, no calls.
func (d *daemon) serve(ctx context.Context) error {
	// Restoring must outlive the wish to end; only death ends it early.
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { d.boxes.acceptLoop(life) })
	managed := make(chan struct{})
	running.Go(func() {
		defer close(managed)
		d.sessions.Run(life, stop)
	})
	d.replay(ctx)
	lis, err := api.Listen(d.cfg.Paths.Socket, d.log)
	if err == nil {
		running.Go(func() {
			if err := d.server.Serve(lis); err != nil && !errors.Is(err, net.ErrClosed) {
				d.log.Error("serving ended", "error", err)
			}
		})
		if d.cfg.Ready != nil {
			d.cfg.Ready()
		}
		d.service.awaitEnd(ctx, d.cfg.Idle)
	}
	close(stop)
	<-managed
	err = errors.Join(err, d.hub.Close())
	if lis != nil {
		// Whoever asked for the end may start the next daemon as soon as he is answered.
		err = errors.Join(err, lis.Close())
	}
	d.service.ended()
	d.server.GracefulStop()
	kill()
	err = errors.Join(err, d.boxes.close(), d.wardens.Close())
	leaveFilesDir(d.files)
	running.Wait()
	return err
}

// replay restores what an earlier daemon has left, before anything new begins.
func (d *daemon) replay(ctx context.Context) {
	orphans, err := d.sessions.Replay(ctx)
	if err != nil {
		d.log.Error("replay the ledger", "error", err)
		d.cfg.Say("what an earlier daemon left could not all be read: " + err.Error())
	}
	deadline := time.NewTimer(replayPatience)
	defer deadline.Stop()
	for _, s := range orphans {
		st := s.Status()
		events, done := s.Watch(false)
		if st.Connect {
			d.log.Info("taking away "+st.Target+", which a daemon that died has left", "session", st.ID)
			d.log.Info(awaitRestored(ctx, events, deadline.C, st.Target))
		} else {
			d.cfg.Say(fmt.Sprintf("restoring %s, which a daemon that died has left (session %s)", st.Target, st.ID))
			d.cfg.Say(awaitRestored(ctx, events, deadline.C, st.Target))
		}
		done()
	}
}

// awaitRestored waits for an orphan, and says how it went.
func awaitRestored(ctx context.Context, events <-chan session.Event, deadline <-chan time.Time, target string) string {
	for {
		select {
		case e := <-events:
			switch e := e.(type) {
			case session.TryFailed:
				return fmt.Sprintf("%s is not restored yet: %v; it is tried again until it is, see `teleswap status`", target, e.Err)
			case session.Outcome:
				if e.Restored {
					return "restored: " + target + " is as it was"
				}
				return fmt.Sprintf("%s is not restored: %v", target, e.Err)
			}
		case <-deadline:
			return target + " is still being restored, see `teleswap status`"
		case <-ctx.Done():
			return target + " is still being restored"
		}
	}
}
