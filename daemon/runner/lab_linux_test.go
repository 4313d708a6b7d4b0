package runner

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/internal/ordinary"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/tun"
)

var podIP = netip.MustParseAddr("10.42.0.7")

// lab plays the daemon: it takes sandboxes over and runs a stack for each.
type lab struct {
	t       testing.TB
	handoff string
	config  func(*netstack.Config)
	before  func() // called before the command may start; nil: nothing

	mu     sync.Mutex
	refuse error // what the daemon answers a sandbox
	stack  *netstack.Stack
	box    *sandbox.Handoff
	taken  chan struct{}
	served sync.WaitGroup
	end    func() // also called at the test's end
}

func newLab(t testing.TB, config func(*netstack.Config)) *lab {
	t.Helper()
	if err := sandbox.Check(); err != nil {
		t.Skipf(ordinary.NoSandbox+" here: %v", err)
	}
	l := &lab{t: t, handoff: filepath.Join(socketDir(t), "handoff.sock"), config: config, taken: make(chan struct{})}
	lis, err := sandbox.ListenHandoff(t.Context(), l.handoff, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.served.Go(func() { l.serve(ctx, lis) })
	l.end = sync.OnceFunc(func() {
		cancel()
		l.served.Wait()
		if err := lis.Close(); err != nil {
			t.Error(err)
		}
		if l.stack != nil {
			if err := l.stack.Close(); err != nil {
				t.Error(err)
			}
			if err := l.box.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(l.end)
	return l
}

// socketDir is a directory with a short name: a socket's may have some 100 bytes.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab") //nolint:usetesting // a socket's path is short, the test's name long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (l *lab) serve(ctx context.Context, lis *sandbox.HandoffListener) {
	h, err := lis.Accept(ctx)
	if err != nil {
		return
	}
	l.mu.Lock()
	refuse := l.refuse
	l.mu.Unlock()
	if refuse != nil {
		_ = h.Ack(refuse)
		_ = h.Close()
		return
	}
	if h.Session != "s1" || h.Token != "t1" {
		l.t.Errorf("handed over as %q %q", h.Session, h.Token)
	}
	dev, err := tun.FromFile(h.TUN, sandbox.DefaultMTU)
	h.TUN = nil
	if err != nil {
		l.t.Error(err)
		_ = h.Ack(err)
		return
	}
	cfg := netstack.Config{
		Device: dev, Addrs: []netip.Addr{podIP},
		DialTCP: func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		},
		DialLoopback: func(_ context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
			f, err := h.Dial(network, dst)
			if err != nil {
				return nil, err
			}
			defer func() { _ = f.Close() }()
			return net.FileConn(f)
		},
	}
	if l.config != nil {
		l.config(&cfg)
	}
	s, err := netstack.New(cfg)
	if err != nil {
		l.t.Error(err)
		_ = h.Ack(err)
		return
	}
	l.mu.Lock()
	l.stack, l.box = s, h
	before := l.before
	l.mu.Unlock()
	close(l.taken)
	if before != nil {
		before()
	}
	if err := h.Ack(nil); err != nil {
		l.t.Error(err)
	}
}

func (l *lab) spec(child ...string) Spec {
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	return Spec{
		Session: "s1", Token: "t1", Handoff: l.handoff, Hostname: "service-a-0",
		Addrs:      []netip.Prefix{netip.PrefixFrom(podIP, 24)},
		ResolvConf: []byte("nameserver 10.96.0.10\n"),
		Env:        append(os.Environ(), "GREETING=Yo", "GORACE=atexit_sleep_ms=0"),
		Argv:       append([]string{exe, childArg}, child...),
	}
}

// running is a command in a sandbox with its pipes.
type running struct {
	*Process
	t      testing.TB
	stdin  *os.File
	stdout *bufio.Reader
}

// start runs the child's program in a sandbox.
func (l *lab) start(spec Spec) *running {
	l.t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	p, err := Start(l.t.Context(), spec, Stdio{In: inR, Out: outW, Err: os.Stderr})
	_ = errors.Join(inR.Close(), outW.Close())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = inW.Close()
		_ = p.Signal(syscall.SIGKILL)
		_, _ = p.Wait()
		_ = outR.Close()
	})
	return &running{Process: p, t: l.t, stdin: inW, stdout: bufio.NewReader(outR)}
}

// line reads one line of the child's output.
func (r *running) line() string {
	r.t.Helper()
	line, err := r.stdout.ReadString('\n')
	if err != nil {
		r.t.Fatalf("read the child's output: %v (%q)", err, line)
	}
	return line[:len(line)-1]
}

// output reads all of it, and waits for the end.
func (r *running) output() (string, Exit) {
	r.t.Helper()
	b, err := io.ReadAll(r.stdout)
	if err != nil {
		r.t.Fatal(err)
	}
	exit, err := r.Wait()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b), exit
}

// echoServer echoes on loopback, which the lab's dialer reaches.
func echoServer(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		wg.Wait()
	})
	return lis.Addr().String()
}

// eventually waits until ok, which the system decides: processes that end, for one.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(15 * time.Second)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func rootContext() context.Context { return context.Background() }

func cancelAfter(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
