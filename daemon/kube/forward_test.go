package kube

import (
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

	gwebsocket "github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// forwardServer is a kubelet's end of a port-forward: it echoes on port 80 and refuses
// all others.
func forwardServer(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "/api/v1/namespaces/shop/pods/web-1/portforward"; r.URL.Path != want || r.Header.Get("Authorization") != "Bearer secret-token" {
			t.Errorf("asked for %s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		streams := make(chan httpstream.Stream, 2)
		received := func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		}
		var conn httpstream.Connection
		if r.Method == http.MethodGet {
			up := gwebsocket.Upgrader{Subprotocols: []string{constants.WebsocketsSPDYTunnelingPortForwardV1}}
			ws, err := up.Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if conn, err = spdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), received); err != nil {
				t.Error(err)
				return
			}
		} else {
			if _, err := httpstream.Handshake(r, w, []string{constants.PortForwardV1Name}); err != nil {
				t.Error(err)
				return
			}
			conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, received)
		}
		if conn == nil {
			t.Error("no upgrade")
			return
		}
		defer func() { _ = conn.Close() }() // the client may have gone first
		failure, data := <-streams, <-streams
		if failure.Headers().Get(corev1.StreamType) != corev1.StreamTypeError || data.Headers().Get(corev1.StreamType) != corev1.StreamTypeData {
			t.Errorf("streams %v, %v", failure.Headers(), data.Headers())
		}
		if data.Headers().Get(corev1.PortHeader) == "80" {
			_, _ = io.Copy(data, data)
		} else {
			_, _ = io.WriteString(failure, "connection refused")
		}
		_ = failure.Close()
		_ = data.Close()
		<-conn.CloseChan()
	}))
	t.Cleanup(server.Close)
	return server
}

func TestDialPortForward(t *testing.T) {
	c := onServer(t, forwardServer(t))
	for _, kind := range []string{PortForwardWebSocket, PortForwardSPDY} {
		t.Run(kind, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			conn, err := c.DialPortForward(ctx, "shop", "web-1", 80, kind)
			if err != nil {
				t.Fatal(err)
			}
			cancel() // the dial's context bounds the dial alone
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, err := io.WriteString(conn, "hello"); err != nil {
					t.Fatal(err)
				}
				back := make([]byte, 5)
				if _, err := io.ReadFull(conn, back); err != nil || string(back) != "hello" {
					t.Fatalf("read %q, %v", back, err)
				}
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}

			conn, err = c.DialPortForward(t.Context(), "shop", "web-1", 81, kind)
			if err != nil {
				t.Fatal(err)
			}
			closeOf(t, conn)
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, errForward) || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("a closed port: %v", err)
			}
		})
	}
	if _, err := c.DialPortForward(t.Context(), "shop", "web-1", 80, "pigeon"); err == nil {
		t.Error("an unknown kind was dialled")
	}
}

func TestDialPortForwardRefused(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods \"web-1\" is forbidden: User \"jane\" cannot create resource \"pods/portforward\" in API group \"\" in the namespace \"shop\"","reason":"Forbidden","code":403}`)
	}))
	defer server.Close()
	c := onServer(t, server)
	for _, kind := range []string{PortForwardWebSocket, PortForwardSPDY} {
		_, err := c.DialPortForward(t.Context(), "shop", "web-1", 80, kind)
		if err == nil || !strings.Contains(err.Error(), "pods/portforward") {
			t.Errorf("%s: a %T: %v", kind, err, err)
		}
	}
}

// TestDialPortForwardCancelled gives up on a server that never answers.
func TestDialPortForwardCancelled(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(Connection{Server: "http://" + silent.Addr().String()}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{PortForwardWebSocket, PortForwardSPDY} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := c.DialPortForward(ctx, "shop", "web-1", 80, kind)
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", kind, err)
		}
		cancel()
	}
	if err := silent.Close(); err != nil { // ends the dials that were given up
		t.Error(err)
	}
}
