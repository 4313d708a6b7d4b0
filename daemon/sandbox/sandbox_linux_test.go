package sandbox

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheckSaysWhatToChange(t *testing.T) {
	opens := func() (*os.File, error) { return os.Open(os.DevNull) }
	fails := func(errno syscall.Errno) func() (*os.File, error) {
		return func() (*os.File, error) { return nil, &os.PathError{Op: "open", Path: tunDevice, Err: errno} }
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		euid  int
		tun   func() (*os.File, error)
		want  string // part of the error; empty: none
	}{
		{"all is there", nil, 1000, opens, ""},
		{"no device", nil, 1000, fails(syscall.ENOENT), "sudo modprobe tun"},
		{"no driver", nil, 1000, fails(syscall.ENODEV), "sudo modprobe tun"},
		{"a closed device", nil, 1000, fails(syscall.EACCES), "sudo chmod 0666 /dev/net/tun"},
		{"a forbidden device", nil, 1000, fails(syscall.EPERM), "udev"},
		{"another failure", nil, 1000, fails(syscall.EIO), "input/output error"},
		{"Debian's switch", map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, 1000, opens, "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"Debian's switch, root", map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, 0, opens, ""},
		{"Debian's switch, on", map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "1\n"}, 1000, opens, ""},
		{"no user namespaces left", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, 1000, opens, "sudo sysctl -w user.max_user_namespaces=15000"},
		{"no user namespaces left, root", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, 0, opens, "max_user_namespaces"},
		{"Ubuntu's AppArmor", map[string]string{
			"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/self/attr/current": "unconfined\n",
		}, 1000, opens, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"Ubuntu's AppArmor, the profile", map[string]string{
			"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/self/attr/current": "unconfined\n",
		}, 1000, opens, "profile teleswap /opt/bin/teleswap flags=(unconfined) { userns, }' | sudo tee /etc/apparmor.d/teleswap"},
		{"no user namespaces left, the other way", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, 1000, opens, "--no-sandbox"},
		{"Debian's switch, the other way", map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, 1000, opens, "--no-sandbox"},
		{"Ubuntu's AppArmor, the other way", map[string]string{
			"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/self/attr/current": "unconfined\n",
		}, 1000, opens, "--no-sandbox"},
		{"a kernel without them, the other way", map[string]string{"proc/self/ns/user": ""}, 1000, opens, "--no-sandbox"},
		{"Ubuntu's AppArmor, with a profile", map[string]string{
			"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/self/attr/current": "teleswap (unconfined)\n",
		}, 1000, opens, ""},
		{"a kernel without them", map[string]string{"proc/self/ns/user": ""}, 1000, opens, "CONFIG_USER_NS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"proc/self/ns/user": "x"}
			for name, content := range c.files {
				files[name] = content
			}
			for name, content := range files {
				if content == "" {
					continue
				}
				path := filepath.Join(root, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			err := host{root: root, euid: c.euid, openTUN: c.tun, program: "/opt/bin/teleswap"}.check()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "etc"), 0o755),
		os.MkdirAll(filepath.Join(dir, "run"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc/plain"), nil, 0o600),
		os.Symlink("../run/stub.conf", filepath.Join(dir, "etc/relative")),
		os.Symlink(filepath.Join(dir, "etc/plain"), filepath.Join(dir, "etc/absolute")),
		os.Symlink("../run/resolve/gone.conf", filepath.Join(dir, "etc/dangling")),
		os.Symlink("loop", filepath.Join(dir, "etc/loop")),
		os.WriteFile(filepath.Join(dir, "run/stub.conf"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, target, parent, missing string }{
		{"plain", "etc/plain", "", ""},
		{"relative", "run/stub.conf", "", ""},
		{"absolute", "etc/plain", "", ""},
		{"dangling", "run/resolve/gone.conf", "run", "resolve/gone.conf"},
		{"nowhere", "etc/nowhere", "etc", "nowhere"},
		{"no/where/at/all", "etc/no/where/at/all", "etc", "no/where/at/all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, parent, missing, err := resolve(filepath.Join(dir, "etc", c.name))
			if err != nil || target != filepath.Join(dir, c.target) || missing != c.missing {
				t.Errorf("got %q, %q, %q, %v", target, parent, missing, err)
			}
			if missing != "" && parent != filepath.Join(dir, c.parent) {
				t.Errorf("parent %q", parent)
			}
		})
	}
	if _, _, _, err := resolve(filepath.Join(dir, "etc/loop")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
}

func TestOnlyFilesAndDNS(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{
			"Ubuntu", "passwd: files systemd\nhosts:          files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns\nnetworks: files\n",
			"passwd: files systemd\nhosts: files dns\nnetworks: files\n",
		},
		{"already", "hosts: files dns\n", "hosts: files dns\n"},
		{"a comment", "# hosts: resolve\n", "# hosts: resolve\n"},
		{"no line end", "hosts: files resolve", "hosts: files dns\n"},
		{"nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(onlyFilesAndDNS([]byte(c.in))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     process
		fails    bool
	}{
		{"plain", "7 (go) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0", process{7, 1, 4242, false}, false},
		{"a nasty name", "7 (a) R 9 (b)) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0", process{7, 1, 4242, false}, false},
		{"stopped", "7 (T) T 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0", process{7, 1, 4242, true}, false},
		{"cut", "7 (go) S 1 7", process{}, true},
		{"empty", "", process{}, true},
		{"backwards", ") (", process{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseStat([]byte(c.in))
			if (err != nil) != c.fails || got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (go) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if p, err := parseStat(in); err != nil && p != (process{}) {
			t.Fatalf("%q: %+v and %v", in, p, err)
		}
	})
}

func listenHandoff(t *testing.T) (*HandoffListener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "handoff") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "h.sock")
	lis, err := ListenHandoff(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = lis.Close()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		_ = os.RemoveAll(dir)
	})
	return lis, path
}

func TestHandoffSocketIsPrivate(t *testing.T) {
	_, path := listenHandoff(t)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	again, err := ListenHandoff(t.Context(), path, slog.New(slog.DiscardHandler)) // as after a crash
	if err != nil {
		t.Fatal(err)
	}
	if err := again.lis.Close(); err != nil {
		t.Error(err)
	}
}

func TestHandoffPassesOverNonsense(t *testing.T) {
	lis, path := listenHandoff(t)
	for _, send := range []string{"", "not json", `{"Session":"s","Token":"t"}`} { // the last one lacks the descriptors
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(send)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.(*net.UnixConn).CloseWrite()
	}
	done := make(chan error, 1)
	go func() {
		f, err := os.Open(os.DevNull)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = f.Close() }()
		_, err = handOver(t.Context(), &Spec{Session: "s1", Token: "t1", Handoff: path}, f, &volumes{})
		done <- err
	}()
	h, err := lis.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h.Session != "s1" || h.Token != "t1" || h.PID != os.Getpid() {
		t.Errorf("got %+v", h)
	}
	if err := h.Ack(errors.New("no such session")); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "no such session") {
		t.Errorf("the sandbox was told %v", err)
	}
	_ = h.Close()
}

// TestHandoffIsNotHeldUp has a client that says nothing: sandboxes come in beside it, and Close does not wait for it.
func TestHandoffIsNotHeldUp(t *testing.T) {
	lis, path := listenHandoff(t)
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), helloTime/2)
	defer cancel()
	go func() {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = f.Close() }()
		_, _ = handOver(ctx, &Spec{Session: "s1", Token: "t1", Handoff: path}, f, &volumes{}) // ends with Close
	}()
	h, err := lis.Accept(ctx)
	if err != nil {
		t.Fatalf("a sandbox beside a silent client: %v", err)
	}
	_ = h.Close()
	closed := make(chan struct{})
	go func() { defer close(closed); _ = lis.Close() }()
	select {
	case <-closed:
	case <-time.After(helloTime / 2):
		t.Error("Close waits for a silent client")
	}
	if _, err := lis.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	lis, _ := listenHandoff(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lis.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// and the listener goes on
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lis.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestSpecTravelsWhole: arguments and environment are bytes, not text.
func TestSpecTravelsWhole(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Control
	for i, fd := range pair {
		if ends[i], err = NewControl(os.NewFile(uintptr(fd), "control")); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ends[i].Close() }()
	}
	want := Spec{
		Session: "s1", Addrs: []netip.Prefix{netip.MustParsePrefix("10.42.0.7/24"), netip.MustParsePrefix("fd00::7/64")},
		ResolvConf: []byte("nameserver 10.96.0.10\n"), Env: []string{"LATIN1=\xe9", "EMPTY="}, Argv: []string{"x", "\xff"},
	}
	orders := []Order{{Spec: &want}, {Signal: unix.SIGINT}}
	go func() {
		for _, o := range orders {
			_ = ends[0].Send(o)
		}
		_ = ends[0].Close()
	}()
	for _, o := range orders {
		var got Order
		if err := ends[1].Receive(&got); err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("got %+v, %v; want %+v", got, err, o)
		}
	}
	if err := ends[1].Receive(&Order{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}
