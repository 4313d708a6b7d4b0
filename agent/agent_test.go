package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The ports that the agent of a test is told; it binds free ones in their place.
const (
	tunnelPort = 15100
	targetPort = 8080
	takenPort  = 8081 // cannot be listened on
)

// pod is a running agent on loopback.
type pod struct {
	keys *tunnel.Keys
	stop context.CancelFunc
	done chan error

	mu    sync.Mutex
	addrs map[uint16]string // where the ports are in fact
	udp   string            // where the one UDP port is
}

func startPod(t *testing.T, change func(*Config)) *pod {
	t.Helper()
	keys, err := tunnel.NewKeys("k3f9qz", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range keys.AgentFiles() {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &pod{keys: keys, done: make(chan error, 1), addrs: make(map[uint16]string)}
	bound := make(chan struct{}, 8)
	cfg := Config{
		TunnelPort: tunnelPort, Listen: []uint16{targetPort}, KeysDir: dir,
		Grace: 10 * time.Second, Version: "test",
		Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Proc:   t.TempDir(), // this machine's sockets are none of the test's
		BindUDP: func(context.Context, uint16) ([]*net.UDPConn, error) {
			defer func() { bound <- struct{}{} }()
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				return nil, err
			}
			p.mu.Lock()
			p.udp = c.LocalAddr().String()
			p.mu.Unlock()
			return []*net.UDPConn{c}, nil
		},
		Bind: func(ctx context.Context, port uint16) (net.Listener, error) {
			defer func() { bound <- struct{}{} }()
			if port == takenPort {
				return nil, &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				p.mu.Lock()
				p.addrs[port] = l.Addr().String()
				p.mu.Unlock()
			}
			return l, err
		},
	}
	if change != nil {
		change(&cfg)
	}
	ctx, stop := context.WithCancel(t.Context())
	p.stop = stop
	go func() { p.done <- Run(ctx, cfg) }()
	for range 1 + len(cfg.Listen) + len(cfg.ListenUDP) {
		<-bound
	}
	t.Cleanup(func() {
		stop()
		select {
		case err := <-p.done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the agent does not end")
		}
	})
	return p
}

// wantEnd waits until the agent has ended well; otherwise is what is wrong where it does not within that time.
func (p *pod) wantEnd(t *testing.T, within time.Duration, otherwise string) {
	t.Helper()
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("it ended: %v", err)
		}
		p.done <- nil // for the cleanup
	case <-time.After(within):
		t.Error(otherwise)
	}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (p *pod) addr(port uint16) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addrs[port]
}

func (p *pod) dialTunnel(ctx context.Context) (net.Conn, error) {
	cfg, err := p.keys.ClientTLS()
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", p.addr(tunnelPort))
	if err != nil {
		return nil, err
	}
	return tunnel.ClientHandshake(cfg)(ctx, raw)
}

func (p *pod) connect(t *testing.T) *tunnel.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := tunnel.Connect(ctx, tunnel.ClientConfig{
		Dial: p.dialTunnel, Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// accept serves the laptop's inbound connections until the test ends.
func acceptAll(t *testing.T, c *tunnel.Client, handle func(*tunnel.Inbound)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Accept(ctx, func(_ context.Context, in *tunnel.Inbound) { handle(in) })
	}()
	stopped := sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stopped)
	return stopped
}

// echo accepts a connection and echoes it to its end.
func echo(t *testing.T) func(*tunnel.Inbound) {
	return func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.Copy(conn, conn)
	}
}

// ask dials addr, sends a line and returns the answer up to the other end's close.
func ask(t *testing.T, addr string) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte("hello")); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// sayer listens on addr and answers each connection with a word.
func sayer(t *testing.T, addr, word string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(io.Discard, conn)
				_, _ = conn.Write([]byte(word))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

func TestInboundCarriesClientAddress(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	seen := make(chan *tunnel.Inbound, 1)
	acceptAll(t, c, func(in *tunnel.Inbound) {
		seen <- in
		echo(t)(in)
	})
	conn, err := net.Dial("tcp", p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := <-seen
	if got, want := in.Remote.String(), conn.LocalAddr().String(); got != want {
		t.Errorf("client's address %s, want %s", got, want)
	}
	if got, want := in.Local.String(), conn.RemoteAddr().String(); got != want {
		t.Errorf("dialled address %s, want %s", got, want)
	}
	if answer, err := ask(t, p.addr(targetPort)); answer != "hello" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
}

func TestInboundRefusedIsReset(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	var tries sync.Map
	acceptAll(t, c, func(in *tunnel.Inbound) {
		tries.Store(time.Now(), true)
		_ = in.Refuse(syscall.ECONNREFUSED)
	})
	if _, err := ask(t, p.addr(targetPort)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	n := 0
	tries.Range(func(any, any) bool { n++; return true })
	if n < 2 {
		t.Errorf("offered %d times, want patience", n)
	}
}

// A port that was open and no longer is: the process restarts or ends. Connections wait,
// for the process or for Hold and HandOver.
// The local process resets what it has not answered: the connection is another's. What
// it has answered is reset.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const n = 1000
	p := startPod(t, nil)
	c := p.connect(t)
	acceptAll(t, c, echo(t))
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { conns[i], errs[i] = openAndEcho(p.addr(targetPort)) })
	}
	wg.Wait()
	for i := range n { // all are open at the same time
		if errs[i] != nil {
			t.Fatalf("connection %d: %v", i, errs[i])
		}
		_ = conns[i].Close()
	}
}

func openAndEcho(addr string) (net.Conn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	var b [1]byte
	if _, err := conn.Write([]byte{7}); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil, err
	}
	if b[0] != 7 {
		return nil, fmt.Errorf("echo of 7 is %d", b[0])
	}
	return conn, nil
}

func TestViewAndListenFailed(t *testing.T) {
	dir := t.TempDir()
	files := Files{
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Hosts:      filepath.Join(dir, "hosts"),
		Namespace:  filepath.Join(dir, "namespace"),
	}
	const resolvConf = "nameserver 127.0.0.1\nsearch default.svc.cluster.local\noptions ndots:5\n"
	for path, content := range map[string]string{files.ResolvConf: resolvConf, files.Namespace: "default\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TELESWAP_TEST_GREETING", "Yo")
	p := startPod(t, func(c *Config) {
		c.Files = files
		c.Listen = []uint16{targetPort, takenPort}
	})
	c := p.connect(t)
	view, err := c.PodView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(view.GetResolvConf()) != resolvConf || view.GetNamespace() != "default" || len(view.GetHosts()) != 0 {
		t.Errorf("got resolv.conf %q, namespace %q, hosts %q", view.GetResolvConf(), view.GetNamespace(), view.GetHosts())
	}
	found := false
	for _, e := range view.GetEnv() {
		found = found || string(e) == "TELESWAP_TEST_GREETING=Yo"
	}
	if !found {
		t.Error("the environment is not reported")
	}
	if len(view.GetPorts()) != 2 || view.GetPorts()[0].GetError() != "" || view.GetPorts()[1].GetError() == "" {
		t.Errorf("ports: %v", view.GetPorts())
	}
	select {
	case e := <-c.Events():
		failed, ok := e.(tunnel.ListenFailed)
		if !ok || failed.Port != takenPort || !strings.Contains(failed.Err.Error(), "in use") {
			t.Errorf("got %#v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("no event")
	}
}

func TestRelayToTarget(t *testing.T) {
	t.Parallel()
	// As the laptop does it: inbound connection to local listener, with the product's relay.
	p := startPod(t, nil)
	c := p.connect(t)
	sayer(t, "127.0.0.1:0", "unused")
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = local.Close()
	sayer(t, local.Addr().String(), "local")
	acceptAll(t, c, func(in *tunnel.Inbound) {
		to, err := net.Dial("tcp", local.Addr().String())
		if err != nil {
			_ = in.Refuse(syscall.ECONNREFUSED)
			return
		}
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		if err := relay.Relay(conn, to); err != nil {
			t.Error(err)
		}
	})
	if answer, err := ask(t, p.addr(targetPort)); answer != "local" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
}
