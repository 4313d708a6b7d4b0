package kube

import (
	"net/http"
	"net/http/httptrace"
	"sync"
)

// firstConnection lets one request go alone until it has its connection, and the
// others then share that one by HTTP/2. A swap begins with some thirty questions at
// once: without this each would do a TLS handshake of its own.
func firstConnection(next http.RoundTripper) http.RoundTripper {
	return &gate{next: next, turn: make(chan struct{}, 1), open: make(chan struct{})}
}

type gate struct {
	next   http.RoundTripper
	turn   chan struct{} // holds a token while a request is the first
	open   chan struct{} // closed once there is a connection
	opened sync.Once
}

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-g.open:
		return g.next.RoundTrip(r)
	default:
	}
	select {
	case <-g.open:
		return g.next.RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	}
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { g.opened.Do(func() { close(g.open) }) }}
	return g.next.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
}

// WrappedRoundTripper lets client-go look through, as its own wrappers do.
func (g *gate) WrappedRoundTripper() http.RoundTripper { return g.next }
