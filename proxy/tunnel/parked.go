package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
)

// ErrRefused is Deliver's when the local process does not accept connections.
var ErrRefused = errors.New("the local process refused the connection")

// ErrNotDelivered is Deliver's when the laptop went away before it had answered.
var ErrNotDelivered = errors.New("the laptop went away before it accepted the connection")

// parkedStream waits for an inbound connection. Its handler waits for bind.
type parkedStream struct {
	frames frameStream
	conn   net.Conn // the tunnel it belongs to
	bind   chan *delivery
}

// delivery is a connection on its way to the laptop.
type delivery struct {
	conn    net.Conn
	waiting int        // how many more wait
	result  chan error // capacity 1; nil: accepted, the stream's handler owns conn now
}

// parkedStreams are those that wait, and the deliveries that wait for one. At any time
// one of the two is empty.
type parkedStreams struct {
	mu      sync.Mutex
	streams map[*parkedStream]struct{}
	waiters map[*waiter]struct{}
	queue   []*waiter // in the order of their arrival; some may have left waiters
}

type waiter struct{ got chan *parkedStream } // capacity 1

func (p *parkedStreams) init() {
	p.streams = make(map[*parkedStream]struct{})
	p.waiters = make(map[*waiter]struct{})
}

// offer parks a stream, or gives it to the one who has waited longest.
func (p *parkedStreams) offer(s *parkedStream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		w := p.queue[0]
		p.queue[0] = nil
		p.queue = p.queue[1:]
		if _, ok := p.waiters[w]; ok {
			delete(p.waiters, w)
			w.got <- s
			return
		}
	}
	p.streams[s] = struct{}{}
}

// withdraw unparks a stream; false if somebody has taken it.
func (p *parkedStreams) withdraw(s *parkedStream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.streams[s]
	delete(p.streams, s)
	return ok
}

// drop unparks the streams of a tunnel that has ended.
func (p *parkedStreams) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.streams {
		if s.conn == conn {
			delete(p.streams, s)
		}
	}
}

// take returns a parked stream, waiting for one until ctx ends, and how many more wait.
func (p *parkedStreams) take(ctx context.Context) (*parkedStream, int, error) {
	p.mu.Lock()
	for s := range p.streams {
		delete(p.streams, s)
		p.mu.Unlock()
		return s, 0, nil
	}
	w := &waiter{got: make(chan *parkedStream, 1)}
	p.waiters[w] = struct{}{}
	p.queue = append(p.queue, w)
	p.mu.Unlock()

	select {
	case s := <-w.got:
		return s, p.waiting(), nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	_, still := p.waiters[w]
	delete(p.waiters, w)
	p.mu.Unlock()
	if !still { // somebody gave one in the meantime
		return <-w.got, p.waiting(), nil
	}
	return nil, 0, ctx.Err()
}

func (p *parkedStreams) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiters)
}

// Waiting is how many connections wait for the laptop to take them.
func (s *Server) Waiting() int { return s.parked.waiting() }

// Deliver offers an inbound connection, or UDP flow (its addresses are *net.UDPAddr, and
// DatagramReader may be), to the laptop and returns once the local process
// has accepted it: the server owns conn from then on and closes it. If conn has a method
// TakeBack() bool it is called when the laptop resets the connection; where it returns
// true the connection is closed without a reset, conn being free to stay open. On an error conn is untouched and
// the caller's: ErrRefused, ErrNotDelivered, or ctx's while no laptop took it. ctx bounds
// only the wait for a laptop.
func (s *Server) Deliver(ctx context.Context, conn net.Conn) error {
	for {
		stream, waiting, err := s.parked.take(ctx)
		if err != nil {
			return fmt.Errorf("wait for the laptop: %w", err)
		}
		d := &delivery{conn: conn, waiting: waiting, result: make(chan error, 1)}
		select {
		case stream.bind <- d:
			return <-d.result
		case <-stream.frames.stream.Context().Done(): // it ended as it was taken
		}
	}
}

// servePark serves one parked stream, from its parking to the end of its connection.
func (s *Server) servePark(stream grpc.ServerStream) error {
	ctx := stream.Context()
	p := &parkedStream{
		frames: frameStream{stream: stream, buffers: &s.buffers},
		conn:   transport(ctx),
		bind:   make(chan *delivery),
	}
	_, body, err := p.frames.expect(kindPark)
	if err != nil {
		return badFrame(err)
	}
	if _, err := parsePark(body); err != nil {
		return badFrame(err)
	}
	s.parked.offer(p)
	select {
	case d := <-p.bind:
		return s.serveDelivery(p, d)
	case <-ctx.Done():
		s.parked.withdraw(p)
		return ctx.Err()
	}
}

// serveDelivery announces a connection and, once accepted, carries its bytes. None is
// read before: until then the connection can still be given to somebody else.
func (s *Server) serveDelivery(p *parkedStream, d *delivery) error {
	network := networkTCP
	if _, ok := d.conn.LocalAddr().(*net.UDPAddr); ok {
		network = networkUDP
		p.frames.datagrams = true
	}
	arrived := arrivedBody{
		network: network,
		local:   addrPort(d.conn.LocalAddr()), remote: addrPort(d.conn.RemoteAddr()),
		waiting: uint32(d.waiting),
	}
	if err := p.frames.sendBody(kindArrived, arrived.append(nil)); err != nil {
		d.result <- ErrNotDelivered
		return err
	}
	k, body, err := p.frames.expect(kindAccepted, kindRefused)
	if err != nil {
		d.result <- fmt.Errorf("%w: %w", ErrNotDelivered, err)
		return badFrame(err)
	}
	if k == kindRefused {
		failure, err := parseFailure(k, body)
		if err != nil {
			d.result <- ErrNotDelivered
			return badFrame(err)
		}
		d.result <- fmt.Errorf("%w: %w", ErrRefused, failure.code.errno())
		return nil
	}
	d.result <- nil
	if network == networkUDP {
		return s.spliceDatagrams(&p.frames, d.conn)
	}
	return s.splice(&p.frames, d.conn)
}
