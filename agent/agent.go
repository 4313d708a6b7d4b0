// Package agent stands in the pod where the target's container stood: it listens on the
// target's ports, dials for the laptop, reports the pod's view and answers its probes.
//
// All it shares with the laptop is proxy/tunnel; it knows no Kubernetes API.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teleswap/teleswap/agent/sftpd"
	"github.com/teleswap/teleswap/proxy/accept"
	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// DefaultGrace is how long a pod that was told to end serves open connections: below
// Kubernetes' default terminationGracePeriodSeconds of 30.
const DefaultGrace = 25 * time.Second

// Config is what Run needs.
type Config struct {
	TunnelPort uint16        // for tunnels and probes
	Listen     []uint16      // the target's TCP ports
	ListenUDP  []uint16      // its UDP ports
	KeysDir    string        // holds tunnel.Keys.AgentFiles
	Grace      time.Duration // to drain after SIGTERM; 0 means DefaultGrace
	Version    string        // of this program
	Files      Files         // zero: the pod's
	Heartbeat  time.Duration // of the tunnel; 0 means its default
	Logger     *slog.Logger  // nil discards
	Output     *Output       // where the local process's output goes; nil discards
	// AloneFor is how long an agent that stands in nobody's place waits for a laptop before it ends, successfully; 0: it
	// stands in somebody's place, and waits for ever.
	AloneFor time.Duration

	// Bind listens on a TCP port; nil means on all addresses of the pod, IPv4 and IPv6.
	Bind func(ctx context.Context, port uint16) (net.Listener, error)
	// BindUDP opens the sockets of a UDP port; nil means as Bind.
	BindUDP func(ctx context.Context, port uint16) ([]*net.UDPConn, error)
	// Loopback and LoopbackUDP are ports at which only the pod's other containers reach the
	// local process, at the loopback address. The original pods have nothing there, so they
	// are not handed over.
	Loopback, LoopbackUDP []uint16
	// Proc is where the kernel tells of processes and sockets; empty means /proc.
	Proc string
}

func (c Config) withDefaults() Config {
	if c.Grace <= 0 {
		c.Grace = DefaultGrace
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Bind == nil {
		c.Bind = bindAll
	}
	if c.BindUDP == nil {
		c.BindUDP = bindUDPAll
	}
	if c.Output == nil {
		c.Output = NewOutput(io.Discard, io.Discard)
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	c.Files = c.Files.withDefaults()
	return c
}

// agent is the running one.
type agent struct {
	cfg    Config
	log    *slog.Logger
	server *tunnel.Server
	router *router
	flows  *flows
	ready  *readiness
	front  *front
	view   *view

	alone   *alone
	arrived atomic.Int64 // when the last connection came (Unix nanoseconds)
	process atomic.Bool  // the local process has listened, and is not known to have ended
}

// Run is the agent's life: it serves until ctx ends (SIGTERM), announces the pod's end
// to the laptop, goes on serving until no connection arrives and none is open or the
// grace is over, and returns nil. It returns early where it was alone for too long, and with an error: keys that cannot
// be read, a tunnel port that cannot be had.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	serverTLS, err := tunnel.LoadAgentTLS(cfg.KeysDir)
	if err != nil {
		return fmt.Errorf("load the session's keys: %w", err)
	}
	// What serves must outlive ctx: draining comes after it.
	serveCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	lis, err := cfg.Bind(serveCtx, cfg.TunnelPort)
	if err != nil {
		return fmt.Errorf("listen for tunnels on port %d: %w", cfg.TunnelPort, err)
	}
	a := newAgent(cfg)
	a.front = newFront(lis.Addr(), tunnel.ServerHandshake(serverTLS), a.ready.handler(), a.log)

	var wg, routed sync.WaitGroup
	wg.Go(func() { a.front.serve(serveCtx, lis) })
	wg.Go(func() { _ = a.server.Serve(a.front.tunnels) }) // ends by Close
	ports, sockets := a.listeners(serveCtx), a.flowSockets(serveCtx)
	for _, l := range ports {
		wg.Go(func() { a.acceptLoop(serveCtx, l, &routed) })
	}
	for _, s := range sockets {
		wg.Go(func() { a.flows.receive(serveCtx, s) })
	}
	wg.Go(func() { a.watchListening(serveCtx) }) // behind our own sockets
	a.log.Info("agent serves", "version", cfg.Version, "tunnel", lis.Addr().String(), "ports", cfg.Listen, "udp", cfg.ListenUDP)

	select {
	case <-ctx.Done():
		a.drain()
	case <-a.alone.tooLong():
		a.log.Info("no laptop: end", "for", cfg.AloneFor)
	}

	stop()
	closeErr := lis.Close()
	for _, l := range ports {
		closeErr = errors.Join(closeErr, l.Close())
	}
	for _, s := range sockets {
		closeErr = errors.Join(closeErr, s.conn.Close())
	}
	closeErr = errors.Join(closeErr, a.server.Close())
	a.front.close()
	wg.Wait()
	routed.Wait()
	a.flows.wait()
	if closeErr != nil {
		return fmt.Errorf("end the agent: %w", closeErr)
	}
	return nil
}

func newAgent(cfg Config) *agent {
	a := &agent{cfg: cfg, log: cfg.Logger, ready: newReadiness(), alone: newAlone(cfg.AloneFor)}
	a.view = newView(cfg.Files, cfg.Version)
	resolver := newResolver(a.view.resolvConf())
	a.server = tunnel.NewServer(tunnel.ServerConfig{
		Resolve:    resolver.exchange,
		View:       a.view.report,
		Ping:       sendEcho,
		Files:      a.serveFiles,
		WatchTrees: newTrees(cfg.KeysDir).watch,
		Log:        cfg.Output.log,
		LogEnd:     cfg.Output.end,
		Control:    control{a},
		Version:    cfg.Version,
		Heartbeat:  cfg.Heartbeat,
		Logger:     cfg.Logger,
	})
	a.router = newRouter(a.server, cfg.Logger)
	a.router.private = cfg.Loopback
	a.flows = newFlows(a.server, cfg.Logger, a.router.situation, a.noteArrival)
	return a
}

// noteArrival notes that something came for the target, which the drain waits to stop.
func (a *agent) noteArrival() { a.arrived.Store(time.Now().UnixNano()) }

// serveFiles serves the pod's files to the laptop but for the session's keys, as files or in
// this process's memory.
func (a *agent) serveFiles(_ context.Context, conn net.Conn) error {
	return sftpd.Serve(conn, sftpd.Config{
		Refuse: []string{a.cfg.KeysDir, filepath.Join("/proc", strconv.Itoa(os.Getpid()))},
	})
}

// watchListening tells the laptop what the pod's other processes listen on, until ctx ends.
func (a *agent) watchListening(ctx context.Context) {
	w := &watcher{proc: a.cfg.Proc, announce: func(l tunnel.PodListening) { a.server.Announce(l) }}
	w.run(ctx, func(err error) { a.log.Warn("sidecars' ports are not known", "error", err) })
}

// acceptLoop routes the connections of one port until its listener is closed.
func (a *agent) acceptLoop(ctx context.Context, l net.Listener, routed *sync.WaitGroup) {
	warn := func(err error) { a.log.Warn("accept", "address", l.Addr().String(), "error", err) }
	accept.Loop(l, warn, func(conn net.Conn) {
		a.noteArrival()
		if !a.router.admit(ctx) {
			a.log.Warn("reset a connection: too many wait", "from", conn.RemoteAddr().String())
			relay.Reset(conn)
			return
		}
		routed.Go(func() { a.router.route(ctx, conn) })
	})
}

const (
	// quiet is how long no connection must have arrived before the agent goes: by then
	// every node has learned that the pod ends.
	quiet = time.Second
	// idleSilence is how long an open connection that owes its client no answer must have
	// been silent to be closed, once it is quiet: as any server does that shuts down.
	idleSilence = time.Second
	// drainLook is how often the drain looks.
	drainLook = 50 * time.Millisecond
)

// drain serves on until it is quiet, nothing is open and the local process has ended, or the grace is over: the process has the pod's
// files and network until then, as in the pod. Once it is
// quiet, idle connections are closed. Those that are never idle are told to end, see client.end.
func (a *agent) drain() {
	a.log.Info("told to end: drain", "grace", a.cfg.Grace)
	begun := time.Now()
	a.ready.end()
	a.server.Announce(tunnel.PodShutdown{Grace: a.cfg.Grace})
	a.router.end()
	ticker := time.NewTicker(drainLook)
	defer ticker.Stop()
	announced := false
	for now := range ticker.C {
		last := max(a.arrived.Load(), begun.UnixNano())
		silent := now.UnixNano()-last >= int64(quiet)
		if silent && !announced {
			announced = true
			a.server.Announce(tunnel.Quiet{})
		}
		if silent {
			a.router.leaveIdle(now, idleSilence)
		}
		load := a.router.load()
		if a.alone.deserted() {
			break // nobody calls what stands in nobody's place
		}
		if silent && load == 0 && !a.process.Load() && a.alone == nil {
			break
		}
		if now.Sub(begun) >= a.cfg.Grace {
			a.log.Warn("the grace is over: end with connections open", "open", load, "what", a.router.describe(now), "process", a.process.Load())
			break
		}
	}
}

// control is what the laptop can ask of the agent.
type control struct{ a *agent }

// SetReady sets what the readiness probe is told. Ready also ends a hold or hand-over; not ready, the pod need not wait for
// the process when it ends.
func (c control) SetReady(ready bool) error {
	if ready {
		c.a.router.become(serving, nil)
	}
	c.a.process.Store(ready)
	c.a.ready.set(ready)
	c.a.log.Info("the local process", "listens", ready)
	return nil
}

// Hold keeps arriving connections waiting: the local process has ended.
func (c control) Hold() error {
	c.a.process.Store(false)
	if !c.a.router.hold() {
		return nil // the original pods have them already
	}
	c.a.log.Info("hold connections: the local process is gone")
	return nil
}

// HandOver gives them to the original pods.
func (c control) HandOver(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return errors.New("hand over to no pod")
	}
	c.a.router.become(handedOver, addrs)
	c.a.log.Info("hand connections over", "to", addrs)
	return nil
}

// Laptop notes whether one is connected. While none is, connections wait for one to
// come back, or for a hand-over, as long as they may.
func (c control) Laptop(connected, goodbye bool) {
	c.a.alone.note(connected)
	if !connected {
		c.a.process.Store(false) // for all that is known
	}
	switch {
	case connected:
		c.a.log.Info("laptop connected")
	case goodbye:
		c.a.log.Info("laptop said goodbye")
	default:
		c.a.log.Warn("laptop lost: hold connections until it is back")
	}
}
