// Package socks is a proxy for programs that cannot or will not use a TUN device: SOCKS 5 with names (RFC 1928, what curl calls
// socks5h) and HTTP (CONNECT, RFC 9110 section 9.3.6, and plain requests, section 7.6), both on one port. It knows
// connections only: who dials, and how a name becomes an address, is the business of who gives Dial.
//
// What a client is told is the truth: success comes after the dial has succeeded, and the reason of a failure as exactly as
// the protocol can say it.
package socks

import (
	"bufio"
	"context"
	"crypto/subtle"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/accept"
	"github.com/teleswap/teleswap/proxy/relay"
)

// greetingTime bounds what a client may take until it has said what it wants.
const greetingTime = 30 * time.Second

// Server is a proxy. Its fields must not be changed once Serve was called.
type Server struct {
	// Dial opens what a client asks for; it is needed. network is tcp, address HOST:PORT, where HOST may be a name. An error
	// that wraps an errno, or a *net.DNSError, is told to the client as what it is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// User and Password are asked of every client, unless both are empty.
	User, Password string
	// Pages answers requests for what is on the proxy itself (a path, no whole address), without a password. Nil: there is nothing.
	Pages http.Handler
	// Logger: nil discards. Addresses are logged at debug level only, credentials never.
	Logger *slog.Logger
}

// Serve takes connections until ctx ends or lis fails for good. It closes lis, resets the connections that are left, and
// returns when all of them have ended: nil when ctx has ended.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = lis.Close() })
	defer stop()
	defer func() { _ = lis.Close() }()
	web := newWeb(s)
	running.Go(func() { web.serve(ctx) })
	warn := func(err error) { s.log().Warn("accept for the proxy", "error", err) }
	accept.Loop(lis, warn, func(c net.Conn) { running.Go(func() { s.handle(ctx, web, c) }) })
	if ctx.Err() != nil {
		return nil
	}
	return net.ErrClosed
}

// handle serves one connection, whichever of the two protocols it speaks.
func (s *Server) handle(ctx context.Context, web *web, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { relay.Reset(c) })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(greetingTime))
	b := &peeked{Conn: c, r: bufio.NewReader(c)}
	first, err := b.r.Peek(1)
	if err != nil {
		_ = c.Close()
		return
	}
	if first[0] != version5 {
		web.take(ctx, b)
		return
	}
	if err := s.socks(ctx, b); err != nil {
		s.log().Debug("a client of the proxy", "error", err)
	}
}

// join relays between a client and what was dialled for it, until both have ended or ctx has.
func (s *Server) join(ctx context.Context, client, remote net.Conn) {
	stop := context.AfterFunc(ctx, func() { relay.Reset(client); relay.Reset(remote) })
	defer stop()
	if err := relay.Relay(client, remote); err != nil {
		s.log().Debug("a connection through the proxy was cut", "error", err)
	}
}

// needsPassword says whether clients must say who they are.
func (s *Server) needsPassword() bool { return s.User != "" || s.Password != "" }

func (s *Server) knows(user, password string) bool {
	u := subtle.ConstantTimeCompare([]byte(user), []byte(s.User))
	p := subtle.ConstantTimeCompare([]byte(password), []byte(s.Password))
	return u&p == 1
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// peeked is a client's connection whose first bytes were looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// CloseWrite ends our way, as *net.TCPConn does.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return p.Close()
}

// Reset aborts the connection; the client sees a reset.
func (p *peeked) Reset() error {
	relay.Reset(p.Conn)
	return nil
}
