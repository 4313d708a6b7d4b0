package kube

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// upgradingServer answers an upgrade with greeting, sent together with the 101, and
// then echoes.
func upgradingServer(t *testing.T, greeting string) (*httptest.Server, <-chan *http.Request) {
	t.Helper()
	requests := make(chan *http.Request, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }() // the client may have gone first
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: teleswap\r\n\r\n"+greeting)
		_, _ = io.Copy(conn, buffered)
	}))
	server.EnableHTTP2 = true // the dial must ask for HTTP/1.1 although the server would rather not
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, requests
}

func TestDialPodProxy(t *testing.T) {
	server, requests := upgradingServer(t, "welcome\n")
	c := onServer(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := c.DialPodProxy(ctx, "shop", "web-1", 15100)
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, conn)
	cancel() // the dial's context bounds the dial alone

	r := <-requests
	if want := "/api/v1/namespaces/shop/pods/web-1:15100/proxy/"; r.URL.Path != want || r.Method != http.MethodGet {
		t.Errorf("asked %s %s, want GET %s", r.Method, r.URL.Path, want)
	}
	if got := r.Header.Get("Authorization"); got != "Bearer secret-token" {
		t.Errorf("authorization = %q", got)
	}
	if got := r.Header.Get("User-Agent"); got != "teleswap/test" {
		t.Errorf("user agent = %q", got)
	}
	lines := bufio.NewReader(conn)
	for _, want := range []string{"welcome\n", "hello\n", "again\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
		if want == "again\n" {
			break
		}
		next := map[string]string{"welcome\n": "hello\n", "hello\n": "again\n"}[want]
		if _, err := io.WriteString(conn, next); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past its deadline: %v", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a closed connection was read")
	}
}

func TestDialPodProxyRefused(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
		want   string
		check  func(error) bool
	}{
		{"no permission", 403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods \"web-1:15100\" is forbidden: User \"jane\" cannot get resource \"pods/proxy\" in API group \"\" in the namespace \"shop\"","reason":"Forbidden","code":403}`, "get pods/proxy in namespace shop", func(err error) bool {
			var e *MissingPermissionError
			return errors.As(err, &e) && e.User == "jane"
		}},
		{"pod gone", 404, `{"kind":"Status","status":"Failure","message":"pods \"web-1\" not found","reason":"NotFound","code":404}`, `pods "web-1" not found`, apierrors.IsNotFound},
		{"no agent there", 503, "dial tcp 10.0.0.1:15100: connect: connection refused", "connection refused", func(error) bool { return true }},
		{"no upgrade", 200, "hello", "no upgrade but 200", func(error) bool { return true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer server.Close()
			conn, err := onServer(t, server).DialPodProxy(t.Context(), "shop", "web-1", 15100)
			if err == nil {
				closeOf(t, conn)
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.want) || !tc.check(err) {
				t.Errorf("error %v misses %q", err, tc.want)
			}
		})
	}
}

// TestDialPodProxyCancelled dials a server that never answers.
func TestDialPodProxyCancelled(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, silent)
	c, err := Connect(Connection{Server: "http://" + silent.Addr().String()}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.DialPodProxy(ctx, "shop", "web-1", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
