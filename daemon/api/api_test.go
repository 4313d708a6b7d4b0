package api

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type echo struct {
	UnimplementedDaemonServer
}

func (echo) Version(context.Context, *VersionRequest) (*VersionReply, error) {
	return &VersionReply{Version: "v9"}, nil
}

func TestClientReachesServer(t *testing.T) {
	p := PathsIn(t.TempDir())
	if err := os.WriteFile(p.Socket, []byte("left by a dead daemon"), 0o644); err != nil {
		t.Fatal(err)
	}
	lis, err := Listen(p.Socket, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("socket's mode is %o, want 600", got)
	}
	srv := NewServer(echo{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c, err := Dial(t.Context(), p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	reply, err := c.Version(t.Context(), &VersionRequest{})
	if err != nil || reply.GetVersion() != "v9" {
		t.Fatalf("version %v, %v; want v9", reply, err)
	}
}

func TestDialWithoutDaemon(t *testing.T) {
	_, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none.sock"))
	if !errors.Is(err, ErrNotRunning) {
		t.Fatalf("dial: %v, want ErrNotRunning", err)
	}
}

func TestSecure(t *testing.T) {
	cases := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    string // part of the error; empty: none
	}{
		{"new", func(*testing.T, string) {}, ""},
		{"ours already", func(t *testing.T, dir string) { mkdir(t, dir, 0o700) }, ""},
		{"open to the group", func(t *testing.T, dir string) { mkdir(t, dir, 0o750) }, "open to others"},
		{"a symlink", func(t *testing.T, dir string) {
			if err := os.Symlink(t.TempDir(), dir); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
		{"a file", func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "rt")
			c.prepare(t, dir)
			err := PathsIn(dir).Secure()
			if c.want == "" && err != nil {
				t.Fatalf("Secure: %v, want success", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("Secure: %v, want %q", err, c.want)
			}
		})
	}
	if err := PathsIn(filepath.Join(t.TempDir(), strings.Repeat("x", 100))).Secure(); err == nil {
		t.Error("a name too long for a socket was accepted")
	}
}

func mkdir(t *testing.T, dir string, mode os.FileMode) {
	t.Helper()
	if err := os.Mkdir(dir, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func TestRuntimeDir(t *testing.T) {
	cases := []struct {
		name string
		env  map[string]string
		want string
	}{
		{"by hand", map[string]string{"TELESWAP_RUNTIME_DIR": "/x", "XDG_RUNTIME_DIR": "/run/user/7"}, "/x"},
		{"session's", map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/teleswap"},
		{"neither", nil, "/tmp/teleswap-7"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := RuntimeDir(func(k string) string { return c.env[k] }, "/tmp", 7); got != c.want {
				t.Errorf("runtime directory %q, want %q", got, c.want)
			}
		})
	}
}
