package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeControl records what the laptop said.
type fakeControl struct {
	mu     sync.Mutex
	ready  []bool
	holds  int
	addrs  []netip.Addr
	laptop chan bool // each change of Laptop's first argument
	err    error
}

func newFakeControl() *fakeControl { return &fakeControl{laptop: make(chan bool, 64)} }

func (f *fakeControl) SetReady(ready bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = append(f.ready, ready)
	return f.err
}

func (f *fakeControl) Hold() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds++
	return f.err
}

func (f *fakeControl) HandOver(addrs []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addrs = addrs
	return f.err
}

func (f *fakeControl) Laptop(connected, _ bool) { f.laptop <- connected }

// rig is a server on loopback with real TLS.
type rig struct {
	keys    *Keys
	server  *Server
	control *fakeControl
	addr    string
}

func newRig(tb testing.TB, change func(*ServerConfig)) *rig {
	tb.Helper()
	keys, err := NewKeys("k3f9qz", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{keys: keys, control: newFakeControl()}
	cfg := ServerConfig{Control: r.control, Version: "test", View: func() (*PodView, error) {
		return &PodView{Name: "pod-1"}, nil
	}}
	if change != nil {
		change(&cfg)
	}
	r.server = NewServer(cfg)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r.addr = lis.Addr().String()
	serverTLS, err := LoadAgentTLS(writeAgentFiles(tb, keys))
	if err != nil {
		tb.Fatal(err)
	}
	secured := &securedListener{Listener: lis, shake: ServerHandshake(serverTLS)}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(secured) }()
	tb.Cleanup(func() {
		if err := r.server.Close(); err != nil {
			tb.Error(err)
		}
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return r
}

func writeAgentFiles(tb testing.TB, keys *Keys) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, content := range keys.AgentFiles() {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// securedListener hands out connections that are through TLS. Handshakes are made one
// after the other, which is enough for tests.
type securedListener struct {
	net.Listener
	shake func(context.Context, net.Conn) (net.Conn, error)
}

func (l *securedListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		conn, err := l.shake(ctx, raw)
		cancel()
		if err == nil {
			return conn, nil
		}
	}
}

func (r *rig) dial(ctx context.Context) (net.Conn, error) {
	cfg, err := r.keys.ClientTLS()
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return nil, err
	}
	return ClientHandshake(cfg)(ctx, raw)
}

func (r *rig) connect(tb testing.TB) *Client {
	tb.Helper()
	c, err := Connect(tb.Context(), ClientConfig{Dial: r.dial})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// echoServer echoes every connection and half-closes after the client does.
func echoServer(tb testing.TB) string {
	tb.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	tb.Cleanup(func() {
		_ = lis.Close()
		wg.Wait()
	})
	return lis.Addr().String()
}

func TestOutboundEcho(t *testing.T) {
	c := newRig(t, nil).connect(t)
	addr := echoServer(t)
	conn, err := c.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.RemoteAddr().String(); got != addr {
		t.Errorf("remote address %s, want %s", got, addr)
	}
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(i * 7)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(want)
		sent <- errors.Join(err, conn.(*Conn).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("echo differs: %d bytes, want %d", len(got), len(want))
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
