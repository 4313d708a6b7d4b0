package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a daemon in this process.
type running struct {
	cfg   Config
	stop  context.CancelFunc
	ended chan error

	mu   sync.Mutex
	said []string
}

func (r *running) says() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.said, "\n")
}

// start runs a daemon and waits until it serves.
func start(t *testing.T, change func(*Config)) *running {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("sandboxes, and so the daemon, are on Linux alone so far")
	}
	dir, err := os.MkdirTemp("", "tsw") //nolint:usetesting // its names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	r := &running{ended: make(chan error, 1)}
	r.cfg = Config{
		Paths: api.PathsIn(filepath.Join(dir, "rt")), StateDir: filepath.Join(dir, "state"),
		Version: "v1", Build: "b1", User: "me", Host: "here",
		Ready: func() { close(ready) },
		Say: func(line string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.said = append(r.said, line)
		},
	}
	if change != nil {
		change(&r.cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.ended <- Run(ctx, r.cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-r.ended:
		t.Fatalf("ended before it was ready: %v", err)
	}
	return r
}

func (r *running) client(t *testing.T) *api.Client {
	t.Helper()
	c, err := api.Dial(t.Context(), r.cfg.Paths.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestQuitEndsTheDaemon(t *testing.T) {
	r := start(t, nil)
	c := r.client(t)
	v, err := c.Version(t.Context(), &api.VersionRequest{})
	if err != nil || v.GetVersion() != "v1" || v.GetBuild() != "b1" || v.GetPid() != int64(os.Getpid()) {
		t.Fatalf("version %v, %v", v, err)
	}
	quit, err := c.Quit(t.Context(), &api.QuitRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := quit.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("quit's stream ended with %v, want EOF", err)
	}
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if _, err := api.Dial(t.Context(), r.cfg.Paths.Socket); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("dial after quit: %v, want ErrNotRunning", err)
	}
}

func TestSignalEndsTheDaemon(t *testing.T) {
	r := start(t, nil)
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
}

func TestIdleDaemonGoes(t *testing.T) {
	r := start(t, func(c *Config) { c.Idle = 20 * time.Millisecond })
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
}

func TestOneDaemonPerUser(t *testing.T) {
	r := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no patience
	err := Run(ctx, r.cfg)
	if err == nil || !strings.Contains(err.Error(), "another daemon is running") {
		t.Fatalf("second daemon: %v, want a refusal", err)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
}

// TestReplayThatCannotSucceed starts beside a record whose cluster is away: the daemon
// says so, serves, and keeps the record.
func TestReplayThatCannotSucceed(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "gone")
	r := start(t, func(c *Config) {
		book, err := ledger.Open(ledgerDir(c.StateDir))
		if err != nil {
			t.Fatal(err)
		}
		e, err := book.Begin(ledger.Record{
			Session: "abc234", Created: time.Now(), Target: "deployment/web:app", Namespace: "default",
			Connection: []byte(`{"kubeconfig":"` + kubeconfig + `"}`),
			Steps:      []ledger.Step{{Name: "mark", Undo: []byte(`{"name":"web"}`)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Release(); err != nil {
			t.Fatal(err)
		}
	})
	if got := r.says(); !strings.Contains(got, "restoring deployment/web:app") || !strings.Contains(got, "not restored yet") {
		t.Errorf("said %q, want what it restores and that it cannot yet", got)
	}
	c := r.client(t)
	st, err := c.Status(t.Context(), &api.StatusRequest{})
	if err != nil || len(st.GetSessions()) != 1 {
		t.Fatalf("status %v, %v; want one session", st, err)
	}
	if s := st.GetSessions()[0]; s.GetId() != "abc234" || s.GetProblem() == "" {
		t.Errorf("session %v, want abc234 with its problem", s)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if !LeftBehind(r.cfg.StateDir) {
		t.Error("the record is gone, and nothing was restored")
	}
}

// TestRestartIsAnswered: who wants to restart the process is told when it may.
func TestRestartIsAnswered(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // an API server that lets the session wait
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	r := start(t, nil)
	stream, err := r.client(t).Swap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := []byte(`{"server":"http://` + silent.Addr().String() + `"}`)
	for _, up := range []*api.SwapUp{
		{Message: &api.SwapUp_Request{Request: &api.SwapRequest{Connection: conn, Name: "web", NoSandbox: true, Watch: true}}},
		{Message: &api.SwapUp_ChildRestarting{ChildRestarting: &api.ChildRestarting{}}},
	} {
		if err := stream.Send(up); err != nil {
			t.Fatal(err)
		}
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetMayRestart() != nil {
			break
		}
		if e.GetDone() != nil {
			t.Fatalf("the session has ended: %v", e)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// TestSandboxesMustBeExpected offers the right one after wrong ones.
func TestSandboxesMustBeExpected(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	b := newBoxes(nil, slog.New(slog.DiscardHandler))
	arrived, cancel := b.Expect("k3f9qz", "token", false)
	defer cancel()
	if e := b.take(&sandbox.Handoff{Session: "k3f9qz", Token: "other"}); e != nil {
		t.Error("a wrong token was taken")
	}
	if e := b.take(&sandbox.Handoff{Session: "other", Token: "token"}); e != nil {
		t.Error("a wrong session was taken")
	}
	if e := b.take(&sandbox.Handoff{Session: "k3f9qz", Token: "token", Container: true}); e != nil {
		t.Error("a container's was taken for a command's")
	}
	e := b.take(&sandbox.Handoff{Session: "k3f9qz", Token: "token"})
	if e == nil {
		t.Fatal("the right one was refused")
	}
	e <- &box{handoff: &sandbox.Handoff{TUN: r, NetNS: w}}
	if got := (<-arrived).TakeTUN(); got != r {
		t.Error("another device arrived")
	}
	if e := b.take(&sandbox.Handoff{Session: "k3f9qz", Token: "token"}); e != nil {
		t.Error("a token was good twice")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestKeyStore(t *testing.T) {
	k := keyStore{t.TempDir()}
	if _, err := k.Load("abc234"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("load of none: %v", err)
	}
	if err := os.WriteFile(k.path("abc234"), []byte(`{"CA":"!secret!"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load("abc234"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("load of damaged keys: %v, want an error without them", err)
	}
	for range 2 {
		if err := k.Forget("abc234"); err != nil {
			t.Fatal(err)
		}
	}
}
