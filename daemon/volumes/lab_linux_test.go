package volumes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/internal/ordinary"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestMain(m *testing.M) {
	// Otherwise each process of the race detector lingers for a second.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	if len(os.Args) > 1 && os.Args[1] == sandbox.InitArg {
		os.Exit(sandbox.Init())
	}
	if len(os.Args) > 1 && os.Args[1] == childArg {
		os.Exit(childMain(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// pod plays the pod: its files are in a directory of the host, served as an agent serves them.
type pod struct {
	t   testing.TB
	dir string

	mu    sync.Mutex
	conns []net.Conn // of SFTP, to be broken
	down  bool       // new ones are refused
	// silent is a pod that takes requests and answers none.
	silent bool
	asked  atomic.Int64      // bytes of requests that were not answered
	kinds  [256]atomic.Int64 // of requests that were

	trees chan *tunnel.Tree
}

func newPod(t testing.TB) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod") //nolint:usetesting // its path is one of the sandbox's too, and short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &pod{t: t, dir: dir, trees: make(chan *tunnel.Tree, 16)}
}

// at is a path in the pod.
func (p *pod) at(name string) string { return filepath.Join(p.dir, name) }

func (p *pod) mkdir(name string) string {
	p.t.Helper()
	if err := os.MkdirAll(p.at(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	return p.at(name)
}

func (p *pod) write(name, content string) string {
	p.t.Helper()
	p.mkdir(filepath.Dir(name))
	if err := os.WriteFile(p.at(name), []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return p.at(name)
}

func (p *pod) read(name string) string {
	p.t.Helper()
	b, err := os.ReadFile(p.at(name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// files is Config.Files.
func (p *pod) files(context.Context) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, errors.New("the pod is away")
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			return nil, err
		}
		_ = f.Close()
	}
	p.conns = append(p.conns, ends[1])
	if p.silent {
		go func() { // ends with the connection
			buf := make([]byte, 4096)
			n, _ := ends[1].Read(buf) // the hello
			if n > 0 {
				_, _ = ends[1].Write([]byte{0, 0, 0, 5, 2, 0, 0, 0, 3})
			}
			for n > 0 {
				n, _ = ends[1].Read(buf)
				p.asked.Add(int64(n))
			}
			_ = ends[1].Close()
		}()
		return ends[0], nil
	}
	server, err := sftp.NewServer(&counted{Conn: ends[1], kinds: &p.kinds})
	if err != nil {
		return nil, err
	}
	go func() { // ends with the connection
		_ = server.Serve()
		_ = server.Close()
	}()
	return ends[0], nil
}

// counted counts the requests that are read from it.
type counted struct {
	net.Conn
	kinds *[256]atomic.Int64
	head  []byte // of the request that is being read: 5 bytes
	left  int    // of its others
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		skip := min(c.left, len(rest))
		c.left, rest = c.left-skip, rest[skip:]
		if c.left > 0 || len(rest) == 0 {
			continue
		}
		c.head, rest = append(c.head, rest[0]), rest[1:]
		if len(c.head) == 5 {
			c.kinds[c.head[4]].Add(1)
			c.left, c.head = int(binary.BigEndian.Uint32(c.head))-1, nil
		}
	}
	return n, err
}

// cut breaks all connections; down says whether new ones are refused then.
func (p *pod) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// watch is Config.Trees.
func (p *pod) watch(ctx context.Context, _ []string, got func(*tunnel.Tree)) error {
	for {
		select {
		case t := <-p.trees:
			if t == nil {
				return errors.New("the tunnel broke")
			}
			got(t)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// process is a command in a sandbox with volumes.
type process struct {
	t       testing.TB
	handoff *sandbox.Handoff
	volumes *Volumes
	warned  *lines
	stdin   io.WriteCloser
	out     output // complete once read is closed
	read    chan struct{}
	cmd     *exec.Cmd
	ctl     *sandbox.Control
	over    bool
}

// output is what the process has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (p *process) text() string {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.buf.String()
}

type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, fmt.Sprintf(format, args...))
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// place is a mount as the sandbox and as the pod know it.
type place struct {
	sandbox.Mount
	pod string
}

// run starts a command in a sandbox with the pod's volumes at their places.
func (p *pod) run(cfg Config, places []place, argv ...string) *process {
	p.t.Helper()
	if err := sandbox.Check(); err != nil {
		p.t.Skipf(ordinary.NoSandbox+" here: %v", err)
	}
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	lis, err := sandbox.ListenHandoff(p.t.Context(), filepath.Join(dir, "h.sock"), slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	spec := sandbox.Spec{
		Session: "s1", Token: "t1", Handoff: filepath.Join(dir, "h.sock"), Dir: "/",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.42.0.7/24")}, Env: os.Environ(), Argv: argv,
	}
	for _, pl := range places {
		spec.Mounts = append(spec.Mounts, pl.Mount)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	proc := &process{t: p.t, stdin: inW, warned: &lines{}, read: make(chan struct{})}
	proc.cmd, proc.ctl, err = sandbox.Start(spec, inR, outW, outW)
	_ = inR.Close()
	_ = outW.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	go func() { // ends with the sandbox
		defer close(proc.read)
		_, _ = io.Copy(&proc.out, outR)
		_ = outR.Close()
	}()
	p.t.Cleanup(proc.end)
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	if proc.handoff, err = lis.Accept(ctx); err != nil {
		p.t.Fatal(err)
	}
	cfg.Trees, cfg.Files, cfg.Warn = p.watch, p.files, proc.warned.add
	for i, pl := range places {
		cfg.Mounts = append(cfg.Mounts, Mount{Path: pl.pod, Live: pl.Live, File: pl.File, Handle: proc.handoff.Mounts[i]})
	}
	proc.volumes, err = Start(ctx, cfg)
	if err := errors.Join(err, proc.handoff.Ack(err)); err != nil {
		p.t.Fatal(err)
	}
	var r sandbox.Report
	if err := proc.ctl.Receive(&r); err != nil || r.Started == 0 {
		p.t.Fatalf("the command did not start: %+v, %v", r, err)
	}
	return proc
}

// end ends what is left.
func (p *process) end() {
	if p.over {
		return
	}
	_ = p.stdin.Close()
	_ = p.ctl.Close()
	if p.handoff != nil {
		if err := sandbox.Kill(p.handoff.NetNS, syscall.SIGKILL); err != nil {
			p.t.Error(err)
		}
	}
	_ = p.cmd.Wait()
	<-p.read
	if p.volumes != nil {
		if err := p.volumes.Close(); err != nil {
			p.t.Error(err)
		}
	}
	if p.handoff != nil {
		_ = p.handoff.Close()
	}
}

// wait waits for the command's end and returns its output.
func (p *process) wait() (string, int) {
	p.t.Helper()
	for {
		var r sandbox.Report
		if err := p.ctl.Receive(&r); err != nil {
			p.t.Fatalf("the sandbox ended: %v", err)
		}
		if r.Exit != nil {
			_ = p.ctl.Close()
			_ = p.cmd.Wait()
			<-p.read
			return p.text(), r.Exit.Code
		}
	}
}

// sh runs a shell's script in a sandbox and returns its output.
func (p *pod) sh(places []place, script string) string {
	p.t.Helper()
	proc := p.run(Config{}, places, "/bin/sh", "-euc", script)
	out, code := proc.wait()
	if code != 0 {
		p.t.Fatalf("exit %d:\n%s\nwarnings: %s", code, out, proc.warned.text())
	}
	return out
}

// eventually waits until ok, which another process decides.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
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

// TestAsOrdinaryUser runs all tests again as a user without any privilege.
func TestAsOrdinaryUser(t *testing.T) { ordinary.Rerun(t) }
