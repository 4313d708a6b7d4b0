package socks

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/relay"
)

// web is the HTTP half of a server: an http.Server whose listener is the server's own.
type web struct {
	server    *Server
	taken     chan net.Conn
	gone      chan struct{} // closed when nothing is taken any more
	close     func()
	forward   *httputil.ReverseProxy
	transport *http.Transport
	// running counts connections until they are closed or hijacked, and requests.
	running sync.WaitGroup
}

func newWeb(s *Server) *web {
	w := &web{server: s, taken: make(chan net.Conn), gone: make(chan struct{})}
	w.close = sync.OnceFunc(func() { close(w.gone) })
	w.transport = &http.Transport{
		DialContext: s.Dial, DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
	}
	w.forward = &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     w.transport,
		FlushInterval: -1, // as it comes: events, long polls
		ErrorHandler:  func(rw http.ResponseWriter, _ *http.Request, err error) { refuse(rw, err) },
		ErrorLog:      slog.NewLogLogger(s.log().Handler(), slog.LevelDebug),
	}
	return w
}

// rewrite sends a request on as it came. The Host stays the client's; ReverseProxy has taken the hop-by-hop fields off.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.Host = r.In.Host
	if _, said := r.In.Header["User-Agent"]; !said {
		r.Out.Header["User-Agent"] = nil // else net/http would put its own name there
	}
}

// take gives a connection to the HTTP server, which owns it from then on.
func (w *web) take(ctx context.Context, c net.Conn) {
	_ = c.SetReadDeadline(time.Time{}) // the HTTP server has its own
	select {
	case w.taken <- c:
	case <-w.gone:
		_ = c.Close()
	case <-ctx.Done():
		_ = c.Close()
	}
}

// serve serves what is taken until ctx ends, then cuts it.
func (w *web) serve(ctx context.Context) {
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) { w.handle(ctx, rw, req) }),
		ReadHeaderTimeout: greetingTime,
		ConnState:         w.count,
		ErrorLog:          slog.NewLogLogger(w.server.log().Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(&door{w}); err != nil && !errors.Is(err, http.ErrServerClosed) {
		w.server.log().Warn("the proxy's HTTP half ended", "error", err)
	}
	w.close()
	w.running.Wait()
	w.transport.CloseIdleConnections()
}

// count follows a connection of the HTTP server, which calls it for a new one before Serve may return.
func (w *web) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		w.running.Add(1)
	case http.StateClosed, http.StateHijacked:
		w.running.Done()
	}
}

// handle serves one request. ctx is the server's: that of a request ends when the client has ended its way, which is no
// reason not to answer.
func (w *web) handle(ctx context.Context, rw http.ResponseWriter, req *http.Request) {
	w.running.Add(1) // its connection still counts
	defer w.running.Done()
	if pages := w.server.Pages; pages != nil && req.Method != http.MethodConnect && req.URL.Host == "" {
		pages.ServeHTTP(rw, req) // a browser that fetches its settings knows of no password yet
		return
	}
	if !w.allowed(req) {
		rw.Header().Set("Proxy-Authenticate", `Basic realm="teleswap"`)
		http.Error(rw, "teleswap: the proxy wants a user and a password", http.StatusProxyAuthRequired)
		return
	}
	req.Header.Del("Proxy-Authorization")
	switch {
	case req.Method == http.MethodConnect:
		w.connect(ctx, rw, req)
	case req.URL.Scheme == "http" && req.URL.Host != "":
		w.forward.ServeHTTP(rw, req)
	default:
		http.Error(rw, "teleswap: this is a proxy: it takes CONNECT and requests with a whole http:// address", http.StatusBadRequest)
	}
}

// allowed checks the credentials (RFC 7617).
func (w *web) allowed(req *http.Request) bool {
	if !w.server.needsPassword() {
		return true
	}
	kind, coded, _ := strings.Cut(req.Header.Get("Proxy-Authorization"), " ")
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(coded))
	user, password, both := strings.Cut(string(plain), ":")
	return err == nil && both && strings.EqualFold(kind, "Basic") && w.server.knows(user, password)
}

// connect makes a tunnel of the connection, once the other end has answered.
func (w *web) connect(ctx context.Context, rw http.ResponseWriter, req *http.Request) {
	remote, err := w.server.Dial(ctx, "tcp", withPort(req.Host))
	if err != nil {
		w.server.log().Debug("a client of the proxy", "error", err)
		refuse(rw, err)
		return
	}
	client, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		relay.Reset(remote)
		http.Error(rw, "teleswap: CONNECT needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		relay.Reset(client)
		relay.Reset(remote)
		return
	}
	w.server.join(ctx, &peeked{Conn: client, r: buffered.Reader}, remote)
}

// withPort is the address of a CONNECT; clients that leave the port away mean that of HTTPS.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443")
}

// refuse says why there is no answer (RFC 9110 sections 15.6.3 and 15.6.5).
func refuse(rw http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	if isTimeout(err) {
		status = http.StatusGatewayTimeout
	}
	http.Error(rw, fmt.Sprintf("teleswap: %v", err), status)
}

// door is the listener of the HTTP server.
type door struct{ *web }

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.taken:
		return c, nil
	case <-d.gone:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.close()
	return nil
}

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }
