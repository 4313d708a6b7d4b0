package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/procnet"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// inNetns runs f in a network namespace of its own, whose loopback is up.
func inNetns(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a network namespace with its own ping_group_range")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()            // and never unlock: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() { // but for the first, whose namespace /proc/net shows
			inNetns(t, f) // another, as this one is taken
			return
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Errorf("loopback: %v", err)
			return
		}
		f()
	}()
	<-done
}

func TestPing(t *testing.T) {
	inNetns(t, func() {
		lo := netip.MustParseAddr("127.0.0.1")
		const groups = "/proc/sys/net/ipv4/ping_group_range"
		if err := os.WriteFile(groups, []byte("1 0"), 0); err != nil {
			t.Error(err)
			return
		}
		if err := sendEcho(t.Context(), lo, nil); !errors.Is(err, tunnel.ErrPingUnavailable) || !strings.Contains(err.Error(), `ping_group_range of the pod ("1 0")`) {
			t.Errorf("without the right to: %v", err)
		}
		if err := os.WriteFile(groups, []byte("0 2147483647"), 0); err != nil {
			t.Error(err)
			return
		}
		for _, to := range []string{"127.0.0.1", "::1"} {
			for _, size := range []int{0, 56, 20000} {
				if err := sendEcho(t.Context(), netip.MustParseAddr(to), make([]byte, size)); err != nil {
					t.Errorf("ping %s with %d bytes: %v", to, size, err)
				}
			}
		}
		if err := sendEcho(t.Context(), netip.MustParseAddr("10.1.2.3"), nil); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("without a route: %v", err)
		}
		unreachable := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 1, 0, 0), Mask: net.CIDRMask(16, 32)}, Type: unix.RTN_UNREACHABLE}
		if err := netlink.RouteAdd(unreachable); err != nil {
			t.Error(err)
		}
		if err := sendEcho(t.Context(), netip.MustParseAddr("10.1.2.3"), nil); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("unreachable: %v", err)
		}
		if err := sendEcho(t.Context(), lo, make([]byte, 65508)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("oversize: %v", err)
		}
		silent(t)
	})
}

// silent pings where no answer comes.
func silent(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/icmp_echo_ignore_all", []byte("1"), 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := sendEcho(ctx, netip.MustParseAddr("127.0.0.1"), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
}

func TestFilesThroughTheTunnel(t *testing.T) {
	t.Parallel()
	var keys string
	p := startPod(t, func(c *Config) { keys = c.KeysDir })
	conn, err := p.connect(t).DialFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := sftp.NewClientPipe(conn, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	name := filepath.Join(t.TempDir(), "file")
	f, err := c.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("teleswap"), 1<<17)
	if _, err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(name); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	entries, err := os.ReadDir(keys)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	if _, err := c.Open(filepath.Join(keys, entries[0].Name())); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the session's keys: %v", err)
	}
	if _, err := c.Open("/proc/self/mem"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the agent's memory: %v", err)
	}
}

func TestOutput(t *testing.T) {
	var stdout, stderr bytes.Buffer
	o := NewOutput(&stdout, &stderr)
	log := slog.New(slog.NewTextHandler(o, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	say := func(isErr bool, text string) {
		t.Helper()
		if err := o.log(isErr, []byte(text)); err != nil {
			t.Error(err)
		}
	}
	log.Info("one")
	say(true, "half a ")
	log.Info("two") // waits for the end of the process's line
	say(false, "out \x00\xff")
	say(true, "line\nnext")
	log.Info("three")
	o.end()
	log.Info("four")
	want := "level=INFO msg=one\nhalf a line\nnext\nlevel=INFO msg=two\nlevel=INFO msg=three\nlevel=INFO msg=four\n"
	if got := stderr.String(); got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	if got := stdout.String(); got != "out \x00\xff" {
		t.Errorf("stdout %q", got)
	}
	stderr.Reset()
	say(true, "no end")
	o.end()
	if got := stderr.String(); got != "no end" {
		t.Errorf("the process's last line became %q", got)
	}
	log.Info("five")
	if got := stderr.String(); got != "no end\nlevel=INFO msg=five\n" {
		t.Errorf("stderr %q", got)
	}
	say(true, "prompt> ")
	for range 2 * maxKept / 100 {
		log.Info(strings.Repeat("x", 100)) // a prompt must not silence the agent for good
	}
	if !strings.Contains(stderr.String(), strings.Repeat("x", 100)) {
		t.Error("nothing of the agent's came out")
	}
}

func TestLogsThroughTheTunnel(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	p := startPod(t, func(c *Config) { c.Output = NewOutput(&stdout, &stderr) })
	l, err := p.connect(t).Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("a line of the process\n", 10000)
	if err := errors.Join(l.Write(false, []byte(want)), l.Write(true, []byte("no end")), l.Close()); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != want {
		t.Errorf("%d bytes on stdout, want %d", stdout.Len(), len(want))
	}
	if got := stderr.String(); !strings.HasPrefix(got, "no end") {
		t.Errorf("stderr %q", got)
	}
}

func addrPorts(texts ...string) (addrs []netip.AddrPort) {
	for _, s := range texts {
		addrs = append(addrs, netip.MustParseAddrPort(s))
	}
	return addrs
}

// What another process listens on is told, and that it does no more; the agent's own is not, nor
// is a client's UDP socket.
func TestWatchListening(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(proc, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+"~", []byte(content), 0o600), os.Rename(path+"~", path)); err != nil {
			t.Fatal(err)
		}
	}
	line := func(addr, state string, inode int) string {
		return fmt.Sprintf(" 0: %s 00000000:0000 %s 0:0 0:0 0 0 0 %d\n", addr, state, inode)
	}
	write("net/tcp", "head\n"+line("0100007F:1F90", "0A", 7)+line("0100007F:1F91", "0A", 8))
	write("net/udp", "head\n"+line("00000000:0202", "07", 9)+line("00000000:C350", "07", 10))
	write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
	if err := errors.Join(os.MkdirAll(filepath.Join(proc, "self/fd"), 0o700), os.Symlink("socket:[8]", filepath.Join(proc, "self/fd/3"))); err != nil {
		t.Fatal(err)
	}
	c := startPod(t, func(c *Config) { c.Proc = proc }).connect(t)
	next := func() tunnel.PodListening {
		t.Helper()
		select {
		case e := <-c.Events():
			return e.(tunnel.PodListening)
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
			return tunnel.PodListening{}
		}
	}
	want := tunnel.PodListening{TCP: addrPorts("127.0.0.1:8080"), UDP: addrPorts("0.0.0.0:514")}
	if got := next(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	want.UDP = addrPorts("0.0.0.0:514", "0.0.0.0:50000") // it stays: a server's after all
	if got := next(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	write("net/tcp", "head\n")
	want.TCP = nil
	if got := next(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// On the kernel's own tables.
func TestLookSeesNothingOfOurs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	w := &watcher{proc: "/proc"}
	got, err := w.look()
	if err != nil {
		t.Fatal(err)
	}
	own := netip.MustParseAddrPort(l.Addr().String())
	if slices.Contains(got.TCP, own) {
		t.Error("the process's own listener is told")
	}
	all, err := procnet.Listening("/proc")
	if err != nil || !slices.ContainsFunc(all, func(s procnet.Socket) bool { return s.Addr == own }) {
		t.Errorf("the kernel's table: %v, %v", all, err)
	}
}

// syncTrees collects what a watch gives.
type syncTrees struct {
	mu    sync.Mutex
	trees []*tunnel.Tree
	came  chan struct{}
}

func (s *syncTrees) give(t *tunnel.Tree) error {
	s.mu.Lock()
	s.trees = append(s.trees, t)
	s.mu.Unlock()
	s.came <- struct{}{}
	return nil
}

func (s *syncTrees) next(t *testing.T) *tunnel.Tree {
	t.Helper()
	select {
	case <-s.came:
	case <-time.After(20 * time.Second):
		t.Fatal("no tree")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.trees[0]
	s.trees = s.trees[1:]
	return first
}
