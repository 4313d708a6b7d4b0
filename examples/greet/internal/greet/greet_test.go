package greet

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// scene starts service-b and gives a service-a that asks it.
func scene(t *testing.T, b http.Handler, now func() time.Time) http.Handler {
	t.Helper()
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	a := &ServiceA{Word: "Yo", Env: "test", Ask: server.URL + "/api/serviceB", Client: server.Client(), Now: now, Logger: discard()}
	return a.Handler()
}

func ask(t *testing.T, h http.Handler, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestServiceA(t *testing.T) {
	clock := func() time.Time { return time.Unix(1700000000, 0) }
	broken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	babble := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "not json") })
	for _, tt := range []struct {
		name, method, path, body string
		b                        http.Handler
		now                      func() time.Time
		status                   int
		want                     string // the whole answer, or what an error's answer contains
	}{
		{name: "greets", body: `{"message":"Hi"}`, status: 200, want: `{"env":"test","message":"Yo Hi"}`},
		{name: "next adds the time", body: `{"message":"Hi"}`, now: clock, status: 200, want: `{"env":"test","message":"Yo Hi","dateTime":1700000000}`},
		{name: "bad JSON", body: `{"message":`, status: 400, want: `not the JSON`},
		{name: "no message", body: `{}`, status: 400, want: `missing or empty`},
		{name: "more than one object", body: `{"message":"Hi"}{}`, status: 400, want: `goes on`},
		{name: "too long", body: `{"message":"` + strings.Repeat("x", maxBody) + `"}`, status: 400, want: `too large`},
		{name: "wrong method", method: http.MethodGet, status: 405, want: `Method Not Allowed`},
		{name: "wrong path", path: "/api/serviceB", body: `{"message":"Hi"}`, status: 404, want: `not found`},
		{name: "service-b fails", b: broken, body: `{"message":"Hi"}`, status: 502, want: `418`},
		{name: "service-b babbles", b: babble, body: `{"message":"Hi"}`, status: 502, want: `answer`},
		{name: "healthy", method: http.MethodGet, path: "/healthz", status: 200, want: `ok`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.method == "" {
				tt.method = http.MethodPost
			}
			if tt.path == "" {
				tt.path = "/api/serviceA"
			}
			if tt.b == nil {
				tt.b = ServiceB()
			}
			status, got := ask(t, scene(t, tt.b, tt.now), tt.method, tt.path, tt.body)
			if status != tt.status {
				t.Errorf("status: got %d, want %d", status, tt.status)
			}
			if status == 200 && got != tt.want || !strings.Contains(got, tt.want) {
				t.Errorf("answer: got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestServiceAUnreachableB(t *testing.T) {
	closed := httptest.NewServer(ServiceB())
	closed.Close()
	a := &ServiceA{Word: "Yo", Env: "test", Ask: closed.URL, Logger: discard()}
	if status, got := ask(t, a.Handler(), http.MethodPost, "/api/serviceA", `{"message":"Hi"}`); status != 502 || !strings.Contains(got, "refused") {
		t.Errorf("got %d %s, want 502 and why", status, got)
	}
}

func TestServiceB(t *testing.T) {
	if status, got := ask(t, ServiceB(), http.MethodPost, "/api/serviceB", `{"message":"Hi"}`); status != 200 || got != `{"message":"Hi"}` {
		t.Errorf("got %d %s", status, got)
	}
	if status, _ := ask(t, ServiceB(), http.MethodPost, "/api/serviceB", `Hi`); status != 400 {
		t.Errorf("bad JSON: got %d, want 400", status)
	}
}

func TestServiceAFromEnv(t *testing.T) {
	env := map[string]string{"GREETING": "Yo", "GREET_ENV": "test"}
	a, err := ServiceAFromEnv(func(k string) string { return env[k] }, discard())
	if err != nil || a.Word != "Yo" || a.Env != "test" || a.Ask != ServiceBURL {
		t.Errorf("got %+v, %v", a, err)
	}
	_, err = ServiceAFromEnv(func(string) string { return "" }, discard())
	if err == nil || !strings.Contains(err.Error(), "GREETING") || !strings.Contains(err.Error(), "GREET_ENV") {
		t.Errorf("nothing set: got %v, want both names", err)
	}
}

// A request that is under way when the service is told to end gets its answer.
func TestServeFinishesRequests(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		healthy(w, nil)
	})
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h, discard()) }()
	status := make(chan int, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	<-entered
	cancel()
	close(release)
	if got := <-status; got != 200 {
		t.Errorf("request under way: got %d, want 200", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
