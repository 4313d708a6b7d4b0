package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

func get(t *testing.T, url string) (int, time.Duration) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 15 * time.Second}
	begin := time.Now()
	res, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	defer func() { _ = res.Body.Close() }()
	return res.StatusCode, time.Since(begin)
}

func TestProbesOnTheTunnelPort(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	base := "http://" + p.addr(tunnelPort)
	if code, _ := get(t, base+"/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	probe := make(chan int, 1)
	go func() {
		code, _ := get(t, base+"/readyz")
		probe <- code
	}()
	select {
	case code := <-probe:
		t.Fatalf("readyz answered %d before it was ready", code)
	case <-time.After(200 * time.Millisecond):
	}
	if err := c.SetReady(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if code := <-probe; code != http.StatusOK {
		t.Errorf("readyz: %d", code)
	}
	if err := c.SetReady(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if code, took := get(t, base+"/readyz"); code != http.StatusServiceUnavailable || took >= readyPatience {
		t.Errorf("readyz after it was lost: %d after %s", code, took)
	}
	// Ready again, the laptop gone, and the pod to end.
	if err := c.SetReady(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := c.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if code, _ := get(t, base+"/readyz"); code != http.StatusOK {
		t.Errorf("readyz while holding: %d", code)
	}
	if code, _ := get(t, base+"/nothing"); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
	}
}

func TestReadinessIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReadiness()
		probe := func() (int, time.Duration) {
			begin := time.Now()
			w := httptest.NewRecorder()
			r.handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			return w.Code, time.Since(begin)
		}
		expect := func(when string, code int, after time.Duration) {
			t.Helper()
			if c, d := probe(); c != code || d != after {
				t.Errorf("%s: %d after %s, want %d after %s", when, c, d, code, after)
			}
		}
		expect("never ready", 503, readyPatience)
		go func() {
			time.Sleep(3 * time.Second)
			r.set(true)
		}()
		expect("ready while held", 200, 3*time.Second)
		expect("ready", 200, 0)
		r.set(false)
		expect("lost", 503, 0)
		expect("still lost", 503, readyPatience)
		go func() {
			time.Sleep(time.Second)
			r.end()
		}()
		expect("the pod ends while held", 503, time.Second)
		r.set(true)
		expect("ended for good", 503, 0)
	})
}

// upgraded asks for the upgrade as the API server's pods/proxy passes it on.
func (p *pod) upgraded(ctx context.Context, early []byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.addr(tunnelPort))
	if err != nil {
		return nil, err
	}
	request := "GET /api/v1/anything HTTP/1.1\r\nHost: 10.244.0.7:15100\r\nConnection: Upgrade\r\nUpgrade: teleswap\r\n" +
		"X-Forwarded-For: 192.0.2.1\r\n\r\n"
	if _, err := conn.Write(append([]byte(request), early...)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "teleswap" {
		return nil, fmt.Errorf("answer %s, %v", res.Status, res.Header)
	}
	return &bufferedConn{Conn: conn, r: r}, nil
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	cfg, err := p.keys.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tunnel.Connect(t.Context(), tunnel.ClientConfig{Dial: func(ctx context.Context) (net.Conn, error) {
		raw, err := p.upgraded(ctx, nil)
		if err != nil {
			return nil, err
		}
		return tunnel.ClientHandshake(cfg)(ctx, raw)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if view, err := c.PodView(t.Context()); err != nil || view.GetAgentVersion() != "test" {
		t.Errorf("got %v, %v", view, err)
	}
}

// The first bytes of the handshake may come in the same segment as the request.
func TestUpgradeWithEarlyBytes(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	cfg, err := p.keys.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	hello := make(chan []byte, 1)
	go func() { // catches the hello, then joins the two connections
		b := make([]byte, 64<<10)
		n, err := far.Read(b)
		if err != nil {
			t.Error(err)
		}
		hello <- b[:n]
	}()
	joined := make(chan error, 1)
	go func() {
		conn, err := p.upgraded(t.Context(), <-hello)
		if err != nil {
			_ = far.Close()
			joined <- err
			return
		}
		back := make(chan struct{})
		go func() {
			defer close(back)
			_, _ = io.Copy(far, conn)
			_ = far.Close()
		}()
		_, _ = io.Copy(conn, far)
		_ = conn.Close()
		<-back
		joined <- nil
	}()
	secured, err := tunnel.ClientHandshake(cfg)(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	_ = secured.Close()
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	for name, first := range map[string]string{
		"nonsense":             "\x00\x01\x02\x03\r\n\r\n",
		"TLS that is not":      "\x16\x03\x01\x00\x02xx",
		"plain HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", p.addr(tunnelPort))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
			if _, err := conn.Write([]byte(first)); err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(conn)
			if len(answer) > 1024 {
				t.Errorf("a stranger is told %d bytes", len(answer))
			}
		})
	}
	// And the agent lives on.
	if view, err := p.connect(t).PodView(t.Context()); err != nil || view == nil {
		t.Error(err)
	}
}
