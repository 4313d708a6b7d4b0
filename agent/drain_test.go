package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestDrain(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	wait, release := context.WithCancel(t.Context())
	defer release()
	acceptAll(t, c, func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		b := make([]byte, 5)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			if string(b[:n]) == "slow?" {
				<-wait.Done()
				n = copy(b, "slow")
			}
			_, _ = conn.Write(b[:n])
		}
	})
	idle, err := openAndEcho(p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	conn, err := net.Dial("tcp", p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("slow?")); err != nil {
		t.Fatal(err)
	}
	p.stop()
	select {
	case e := <-c.Events():
		if s, ok := e.(tunnel.PodShutdown); !ok || s.Grace != 10*time.Second {
			t.Errorf("got %#v", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	// New connections are served on, and so is the open one.
	if answer, err := ask(t, p.addr(targetPort)); answer != "hello" || err != nil {
		t.Errorf("while draining got %q, %v", answer, err)
	}
	select {
	case err := <-p.done:
		t.Fatalf("ended with a connection open: %v", err)
	case <-time.After(quiet + 2*idleSilence):
	}
	if e := <-c.Events(); e != (tunnel.Quiet{}) {
		t.Errorf("got %#v", e)
	}
	// The one that was owed an answer gets it; then it is idle, and closed.
	release()
	_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	if answer, err := io.ReadAll(conn); string(answer) != "slow" || err != nil {
		t.Errorf("open connection got %q, %v", answer, err)
	}
	// The idle one was closed long since.
	_ = idle.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection got %v", err)
	}
	p.wantEnd(t, 8*time.Second, "does not end although all is quiet") // well below the grace
}

func TestDrainGraceIsABound(t *testing.T) {
	t.Parallel()
	p := startPod(t, func(c *Config) { c.Grace = 300 * time.Millisecond })
	c := p.connect(t)
	acceptAll(t, c, echo(t))
	conn, err := openAndEcho(p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{7}); err != nil { // which it does not read the echo of
		t.Fatal(err)
	}
	p.stop()
	p.wantEnd(t, 15*time.Second, "an open connection keeps the agent beyond its grace")
}

// TestDrainWaitsForTheProcess: a process that flushes to a volume when it is told to end, or its preStop hook, needs the pod until it
// has ended; or until nobody can know any more.
func TestDrainWaitsForTheProcess(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *tunnel.Client){
		"ended": func(t *testing.T, c *tunnel.Client) {
			if err := c.Hold(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"laptop gone": func(t *testing.T, c *tunnel.Client) {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPod(t, nil)
			c := p.connect(t)
			if err := c.SetReady(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			p.stop()
			for e := range c.Events() {
				if e == (tunnel.Quiet{}) {
					break
				}
			}
			select {
			case err := <-p.done:
				t.Fatalf("ended before the process: %v", err)
			case <-time.After(10 * drainLook):
			}
			if _, err := c.PodView(t.Context()); err != nil {
				t.Errorf("while the process ends: %v", err)
			}
			end(t, c)
			p.wantEnd(t, 8*time.Second, "does not end although the process has") // well below the grace
		})
	}
}

// TestDrainLeavesWhoDoesNotFollow: a process that ignores the end of an idle connection, or is gone without a word,
// kept the agent for its whole grace.
func TestDrainLeavesWhoDoesNotFollow(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	acceptAll(t, c, func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(conn, io.LimitReader(conn, 5))
		<-t.Context().Done() // and never closes
		_ = conn.Close()
	})
	conn, err := openAndEcho(p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	p.stop()
	p.wantEnd(t, 8*time.Second, "an idle connection keeps the agent") // well below the grace
}

// TestDrainLeavesNoDownload: a client that reads slowly is owed what it has not read.
func TestDrainLeavesNoDownload(t *testing.T) {
	t.Parallel()
	const size = 16 << 20 // more than all buffers on the way
	p := startPod(t, nil)
	c := p.connect(t)
	acceptAll(t, c, func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_, _ = conn.Write(make([]byte, size))
	})
	conn, err := net.Dial("tcp", p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.stop()
	select {
	case err := <-p.done:
		t.Fatalf("ended amid a download: %v", err)
	case <-time.After(quiet + 3*idleSilence):
	}
	if n, err := io.Copy(io.Discard, conn); err != nil || n != size-1 {
		t.Errorf("%d bytes of %d arrived, %v", n+1, size, err)
	}
}

// TestDrainEndsBusyHTTP: a client that asks again and again on one connection is told to come no more with an answer,
// and not cut at the end of the grace, amid the next.
func TestDrainEndsBusyHTTP(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	local := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer local.Close()
	acceptAll(t, c, func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		server, err := net.Dial("tcp", local.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		_ = relay.Relay(conn, server) // the client ends it
	})
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	post := func() (closed bool) {
		resp, err := client.Post("http://"+p.addr(targetPort), "text/plain", strings.NewReader("question"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "question" {
			t.Fatalf("answer %q, %v", b, err)
		}
		return resp.Close
	}
	if post() {
		t.Error("told to end before the drain")
	}
	p.stop()
	for !post() { // SIGTERM takes a moment
	}
	p.wantEnd(t, 8*time.Second, "a busy connection keeps the agent") // well below the grace
}

// TestDrainEndsBusyGRPC: a client that calls again and again on one connection is told to open another, which leads elsewhere by
// then, and no call is lost.
func TestDrainEndsBusyGRPC(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(lis) }()
	defer server.Stop()
	acceptAll(t, c, func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		server, err := net.Dial("tcp", lis.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		_ = relay.Relay(conn, server) // the client ends it
	})
	var dialled atomic.Int64
	conn, err := grpc.NewClient("passthrough:///service", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			to := p.addr(targetPort)
			if dialled.Add(1) > 1 {
				to = lis.Addr().String()
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := grpc_health_v1.NewHealthClient(conn)
	var callers sync.WaitGroup
	defer callers.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls atomic.Int64
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
					t.Errorf("after %d calls: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for calls.Load() < 20 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	p.stop()
	select {
	case err := <-p.done:
		if err != nil {
			t.Error(err)
		}
		p.done <- nil
	case <-time.After(8 * time.Second): // well below the grace
		t.Error("a busy connection keeps the agent")
	}
	after := calls.Load()
	for calls.Load() < after+20 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	if n := dialled.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestLastAnswer(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // empty: as it came
	}{
		{"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", "HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\n\r\nbody"},
		{"HTTP/1.1 404 \r\n\r\n", "HTTP/1.1 404 \r\nConnection: close\r\n\r\n"},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", ""},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""},
		{"HTTP/1.0 200 OK\r\n\r\n", ""},
		{"HTTP/1.1 2x0 OK\r\n\r\n", ""},
		{"HTTP/1.1 200 O", ""},
		{"220 mail ESMTP\r\n", ""},
		{"", ""},
	} {
		b, extra := withCloseField(net.Buffers{[]byte(c.in), []byte("more")})
		want := c.want + "more"
		if c.want == "" {
			want = c.in + "more"
		}
		if got := string(bytes.Join(b, nil)); got != want || extra != len(want)-len(c.in)-len("more") {
			t.Errorf("%q became %q with %d bytes more, want %q", c.in, got, extra, want)
		}
	}
}
