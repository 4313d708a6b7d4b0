package sandbox

import (
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestPassEnvironment(t *testing.T) {
	p := pass{Env: []string{"A=pod", "B=one\ntwo", "C=pod"}, Own: []string{"C"}}
	got := p.environment([]string{"PATH=/bin", "A=image", "C=user's"})
	if want := []string{"PATH=/bin", "C=user's", "A=pod", "B=one\ntwo"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestGateSaysWhatNobodyElseDoes: what keeps the container's own command from starting the CLI shows, of one that docker exec has
// started its user would see an exit status alone.
func TestGateSaysWhatNobodyElseDoes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		late   bool
		keeper func(*gate) error
		tells  bool // the keeper itself
		want   string
	}{
		{"the container's own command", false, (*gate).open, true, ""},
		{"the container's own, refused", false, func(g *gate) error { g.refuse(errors.New("no device")); return nil }, false, ""},
		{"a later one", true, (*gate).open, true, "teleswap: no-such-command: command not found in PATH\n"},
		{"a later one, refused", true, func(g *gate) error { g.refuse(errors.New("you may not")); return nil }, false, "teleswap: you may not\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = lis.Close() }()
			conn, err := net.Dial("unix", lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			g, err := (&gates{lis: lis}).accept()
			if err != nil {
				t.Fatal(err)
			}
			g.pass.Late = tt.late
			told := make(chan error, 1)
			go func() { told <- tt.keeper(g) }()
			var says strings.Builder
			passThrough(conn, []string{"no-such-command"}, &says)
			_ = conn.Close()
			if err := <-told; (err != nil) != tt.tells {
				t.Errorf("the keeper hears %v", err)
			}
			if says.String() != tt.want {
				t.Errorf("says %q, want %q", says.String(), tt.want)
			}
		})
	}
}

// TestMapTo maps the volumes' owner to the container's user, and keeps a root for the keeper itself.
func TestMapTo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		id, as int
		want   []syscall.SysProcIDMap
	}{
		{"an ordinary user's to root", 1000, 0, []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}}},
		{"an ordinary user's to another", 1000, 65532, []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 65532, Size: 1}, {ContainerID: 0, HostID: 0, Size: 1}}},
		{"root's to another", 0, 65532, []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65532, Size: 1}, {ContainerID: 1, HostID: 0, Size: 1}}},
	} {
		if got := mapTo(tt.id, tt.as); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if f, err := idMap(user{1, 1}, user{1, 1}); f != nil || err != nil {
		t.Errorf("one user: got %v, %v, want no map", f, err)
	}
}
