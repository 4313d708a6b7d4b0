// Package agenttest serves the agent's end of a tunnel on loopback, without a pod, for tests.
package agenttest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// Agent is an agent's end that listens.
type Agent struct {
	*tunnel.Server
	lis    net.Listener
	served chan error
}

// Start serves with the keys of an agent, by file name. Handshakes end with ctx. A nil Control does nothing. The caller stops it.
func Start(ctx context.Context, keys map[string][]byte, cfg tunnel.ServerConfig) (*Agent, error) {
	dir, err := os.MkdirTemp("", "agenttest")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for name, data := range keys {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	tls, err := tunnel.LoadAgentTLS(dir)
	if err != nil {
		return nil, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if cfg.Control == nil {
		cfg.Control = Control{}
	}
	a := &Agent{Server: tunnel.NewServer(cfg), lis: lis, served: make(chan error, 1)}
	go func() { a.served <- a.Serve(secured{lis, ctx, tunnel.ServerHandshake(tls)}) }() // until Stop
	return a, nil
}

// Stop ends the agent and what is connected to it. The error is also of why it had ended before.
func (a *Agent) Stop() error {
	err := a.Close()
	if ended := <-a.served; !errors.Is(ended, net.ErrClosed) {
		err = errors.Join(err, ended)
	}
	if closed := a.lis.Close(); !errors.Is(closed, net.ErrClosed) {
		err = errors.Join(err, closed)
	}
	return err
}

// Dial connects to the agent's port, before any handshake.
func (a *Agent) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", a.lis.Addr().String())
}

// DialPod is a tunnel.ServerConfig's Dial: the test's network is the pod's.
func DialPod(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}

// Control does what the laptop asks: nothing.
type Control struct{}

// SetReady implements tunnel.Control.
func (Control) SetReady(bool) error { return nil }

// Hold implements tunnel.Control.
func (Control) Hold() error { return nil }

// HandOver implements tunnel.Control.
func (Control) HandOver([]netip.Addr) error { return nil }

// Laptop implements tunnel.Control.
func (Control) Laptop(_, _ bool) {}

// secured is a listener whose connections are through the handshake.
type secured struct {
	net.Listener
	ctx       context.Context //nolint:containedctx // of the server
	handshake func(context.Context, net.Conn) (net.Conn, error)
}

func (l secured) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, err := l.handshake(l.ctx, raw); err == nil {
			return c, nil
		}
	}
}
