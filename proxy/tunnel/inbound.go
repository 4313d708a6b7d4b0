package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// maxIdleParked bounds the streams that are parked and unused at any one time.
	maxIdleParked = 1024
	// parkedRest is how long streams in excess of the wanted number stay parked.
	parkedRest = 10 * time.Second
)

// Inbound is a connection, or a UDP flow, that arrived at the pod and waits for the local process.
// A flow ends by itself: the agent closes it after a minute of silence.
// Exactly one of Accept and Refuse is to be called; a handler that returns without is
// taken to have refused.
type Inbound struct {
	Network string         // "tcp", or "udp": one for each client's flow
	Local   netip.AddrPort // what the client dialled, in the pod
	Remote  netip.AddrPort // the client

	client *Client
	frames frameStream
	cancel context.CancelFunc

	mu       sync.Mutex
	answered bool
}

var errAnswered = errors.New("inbound connection is answered already")

// Accept takes the connection; call it after the local process has. The caller closes
// the connection, a *Conn, or a *Flow where the network is "udp".
func (in *Inbound) Accept() (net.Conn, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.answered {
		return nil, errAnswered
	}
	in.answered = true
	if err := in.frames.sendBody(kindAccepted, nil); err != nil {
		in.cancel()
		return nil, fmt.Errorf("accept connection from %s: %w", in.Remote, in.client.lost(err))
	}
	kind := networkTCP
	if in.frames.datagrams {
		kind = networkUDP
	}
	conn := newConn(in.frames, in.cancel, in.client.spawn, kind.addr(in.Local), kind.addr(in.Remote))
	in.client.spawn(conn.run)
	if kind == networkUDP {
		return &Flow{conn: conn}, nil
	}
	return conn, nil
}

// Refuse has the agent reset the client's connection (after a moment of patience, in
// which the local process may come back or Hold be called). errno says why.
func (in *Inbound) Refuse(errno syscall.Errno) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.answered {
		return errAnswered
	}
	in.answered = true
	body := failureBody{code: codeOf(errno)}.append(nil)
	if err := in.frames.sendBody(kindRefused, body); err != nil {
		in.cancel()
		return fmt.Errorf("refuse connection from %s: %w", in.Remote, in.client.lost(err))
	}
	in.client.spawn(in.drain)
	return nil
}

// drain waits for the agent to end a refused stream, which then is released.
func (in *Inbound) drain() {
	defer in.cancel()
	timer := time.AfterFunc(goodbyeTime, in.cancel)
	defer timer.Stop()
	var m inFrame
	if in.frames.recv(&m) == nil {
		m.free()
	}
}

// Accept serves the connections that arrive at the pod, each in a goroutine of its own,
// until ctx or the tunnel ends, and returns the reason after all handlers have returned.
// The handler's context ends with Accept's or the tunnel. While no Accept is under way,
// the agent keeps arriving connections waiting.
func (c *Client) Accept(ctx context.Context, handle func(context.Context, *Inbound)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &parking{
		client: c, handle: handle, wanted: c.parked,
		idle: make(map[uint64]context.CancelFunc), fail: cancel,
	}
	p.fill(ctx, c.parked)
	trim := time.NewTicker(parkedRest)
	defer trim.Stop()
	for {
		select {
		case <-trim.C:
			p.trim()
			continue
		case <-ctx.Done():
			p.wg.Wait()
			return c.acceptError(context.Cause(ctx))
		case <-c.done:
			cancel(c.Err())
			p.wg.Wait()
			return c.Err()
		}
	}
}

// errUnparked is a parked stream's end by the other side.
var errUnparked = errors.New("wait for an inbound connection")

// acceptError prefers the tunnel's own reason where a parked stream was the first to
// notice its end.
func (c *Client) acceptError(err error) error {
	if !errors.Is(err, errUnparked) {
		return err
	}
	timer := time.NewTimer(goodbyeTime)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.Err()
	case <-timer.C:
		return err
	}
}

// parking keeps streams parked at the agent: wanted ones, and more while more
// connections wait there than are parked for.
type parking struct {
	client *Client
	handle func(context.Context, *Inbound)
	wanted int
	fail   context.CancelCauseFunc
	wg     sync.WaitGroup // one for each parked stream and handler

	mu    sync.Mutex
	idle  map[uint64]context.CancelFunc
	grown time.Time // when more than wanted were last needed
}

// fill parks streams until n are idle.
func (p *parking) fill(ctx context.Context, n int) {
	n = min(n, maxIdleParked)
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.wanted {
		p.grown = time.Now()
	}
	for len(p.idle) < n && ctx.Err() == nil {
		id := p.client.streams.Add(1)
		streamCtx, cancel := context.WithCancel(ctx)
		p.idle[id] = cancel
		p.wg.Go(func() { p.park(ctx, streamCtx, cancel, id) })
	}
}

// trim unparks what is in excess once it has not been needed for a while. A connection
// that the agent binds in that moment is redelivered by it.
func (p *parking) trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.grown) < parkedRest {
		return
	}
	for id, cancel := range p.idle {
		if len(p.idle) <= p.wanted {
			return
		}
		delete(p.idle, id)
		cancel()
	}
}

// take removes a stream from the idle ones; false if trim was there first.
func (p *parking) take(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.idle[id]
	delete(p.idle, id)
	return ok
}

// park parks one stream, waits for a connection on it, and handles that.
func (p *parking) park(ctx, waitCtx context.Context, cancelWait context.CancelFunc, id uint64) {
	defer cancelWait()
	// A connection goes on when Accept's context has ended; the waiting does not.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(waitCtx, cancel)
	frames, arrived, err := p.client.awaitArrival(streamCtx, id)
	if !stop() || !p.take(id) {
		cancel()
		p.take(id)
		return
	}
	if err != nil {
		cancel()
		// A parked stream ends by our doing, or because the tunnel is broken.
		p.fail(fmt.Errorf("%w: %w", errUnparked, rpcError(err)))
		return
	}
	p.fill(ctx, p.wanted+int(arrived.waiting))
	frames.datagrams = arrived.network == networkUDP
	in := &Inbound{
		Network: arrived.network.String(), Local: arrived.local, Remote: arrived.remote,
		client: p.client, frames: frames, cancel: cancel,
	}
	p.handle(ctx, in)
	_ = in.Refuse(syscall.ECONNREFUSED) // unless answered
}

func (c *Client) awaitArrival(ctx context.Context, id uint64) (frameStream, arrivedBody, error) {
	frames, err := c.newStream(ctx, methodPark)
	if err != nil {
		return frameStream{}, arrivedBody{}, err
	}
	if err := frames.sendBody(kindPark, parkBody{stream: id}.append(nil)); err != nil {
		return frameStream{}, arrivedBody{}, streamError(frames, err)
	}
	_, body, err := frames.expect(kindArrived)
	if err != nil {
		return frameStream{}, arrivedBody{}, err
	}
	arrived, err := parseArrived(body)
	if err == nil && arrived.network == networkFiles {
		err = fmt.Errorf("%s: %w: %d", kindArrived, errFrameNetwork, arrived.network)
	}
	return frames, arrived, err
}
