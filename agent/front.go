package agent

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/accept"
)

const (
	// introduction is how long a connection may take to say what it speaks, and to get
	// through its handshake.
	introduction = 10 * time.Second
	// maxIntroductions bounds the connections that have not got so far: anybody in the
	// cluster can open one.
	maxIntroductions = 256
	// tlsHandshakeByte begins every TLS connection (RFC 8446 section 5.1).
	tlsHandshakeByte = 0x16
	// upgradeProtocol is what a proxy between laptop and agent asks to upgrade to.
	upgradeProtocol = "teleswap"
)

// front is the agent's one port for everything that is not the target's: TLS at once,
// or HTTP/1.1 for the kubelet's probes and for `Upgrade: teleswap`, after which TLS
// follows on the raw connection.
type front struct {
	shake func(context.Context, net.Conn) (net.Conn, error) // the agent's side of mutual TLS
	log   *slog.Logger

	tunnels *handoff // connections that are through TLS
	web     *handoff // connections that speak HTTP
	slots   chan struct{}
	http    *http.Server
	wg      sync.WaitGroup
}

func newFront(addr net.Addr, shake func(context.Context, net.Conn) (net.Conn, error), probes http.Handler, log *slog.Logger) *front {
	f := &front{
		shake: shake, log: log,
		tunnels: newHandoff(addr),
		web:     newHandoff(addr),
		slots:   make(chan struct{}, maxIntroductions),
	}
	f.http = &http.Server{
		Handler:           f.handler(probes),
		ReadHeaderTimeout: introduction,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return f
}

// serve sorts the connections of lis until it is closed.
func (f *front) serve(ctx context.Context, lis net.Listener) {
	f.http.BaseContext = func(net.Listener) context.Context { return ctx }
	f.wg.Go(func() { _ = f.http.Serve(f.web) }) // ends by close
	warn := func(err error) { f.log.Warn("accept on the tunnel's port", "error", err) }
	accept.Loop(lis, warn, func(conn net.Conn) {
		select {
		case f.slots <- struct{}{}:
			f.wg.Go(func() {
				defer func() { <-f.slots }()
				f.sort(ctx, conn)
			})
		default:
			_ = conn.Close()
		}
	})
}

// close ends the HTTP side and waits for all goroutines. The listener is closed, and the
// context of serve ended, before: that ends what is under way.
func (f *front) close() {
	_ = f.http.Close()
	_ = f.web.Close()
	_ = f.tunnels.Close()
	f.wg.Wait()
}

// sort finds out by the first byte what a connection speaks.
func (f *front) sort(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(introduction))
	r := bufio.NewReader(conn)
	first, err := r.Peek(1)
	_ = conn.SetReadDeadline(time.Time{})
	if !stop() || err != nil { // a port scan, or a TCP probe
		_ = conn.Close()
		return
	}
	conn = &bufferedConn{Conn: conn, r: r}
	if first[0] == tlsHandshakeByte {
		f.secure(ctx, conn)
		return
	}
	f.web.give(conn)
}

// secure makes a tunnel's connection out of one that begins with TLS.
func (f *front) secure(ctx context.Context, conn net.Conn) {
	remote := conn.RemoteAddr()
	ctx, cancel := context.WithTimeout(ctx, introduction)
	defer cancel()
	secured, err := f.shake(ctx, conn)
	if err != nil {
		f.log.Warn("refuse a tunnel", "from", remote, "error", err)
		return
	}
	f.tunnels.give(secured)
}

func (f *front) handler(probes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != upgradeProtocol {
			probes.ServeHTTP(w, r)
			return
		}
		f.upgrade(w, r)
	})
}

// upgrade answers 101 and takes the connection for a tunnel. This is how it comes
// through the API server's pods/proxy, which passes such requests on (RFC 9110
// section 7.8).
func (f *front) upgrade(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + upgradeProtocol + "\r\n\r\n"
	if _, err := conn.Write([]byte(answer)); err != nil {
		_ = conn.Close()
		return
	}
	// The laptop may have begun its handshake without waiting for the 101. The request's
	// context lasts until this returns.
	f.secure(r.Context(), &bufferedConn{Conn: conn, r: buffered.Reader})
}

// bufferedConn reads what a bufio.Reader had already taken, then the connection.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(p)
	}
	if c.r.Buffered() == 0 {
		c.r = nil
		return c.Conn.Read(p)
	}
	return c.r.Read(p)
}
