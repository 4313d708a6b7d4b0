package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

const (
	// defaultHeartbeat is how often either end sends a heartbeat.
	defaultHeartbeat = 5 * time.Second
	// patience is how many intervals without a word from the other end mean that it is gone.
	patience = 3
	// goodbyeTime is how long Close waits for the agent to take the goodbye.
	goodbyeTime = time.Second
)

// controlClient is the laptop's end of the control stream, whose end is the tunnel's.
type controlClient struct {
	stream    grpc.ClientStream
	heartbeat time.Duration
	heard     atomic.Bool // something arrived since the last look
	ids       atomic.Uint64

	sendMu sync.Mutex // gRPC takes one sender at a time

	mu      sync.Mutex
	waiting map[uint64]chan string // acknowledgements, by request
}

// openControl opens the control stream, waits for the agent's welcome, and starts the
// goroutines that keep it.
func (c *Client) openControl(ctx context.Context) error {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	control, err := c.greet(streamCtx)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return err
	}
	c.control = control
	c.spawn(func() {
		defer cancel()
		c.end(c.receiveControl())
	})
	c.spawn(c.sendHeartbeats)
	return nil
}

func (c *Client) greet(ctx context.Context) (*controlClient, error) {
	stream, err := c.conn.NewStream(ctx, rawStream(methodControl), methodPath(methodControl))
	if err != nil {
		return nil, rpcError(err)
	}
	hello := &tunnelpb.ControlRequest{Kind: &tunnelpb.ControlRequest_Hello{
		Hello: &tunnelpb.Hello{Version: protocolVersion},
	}}
	if err := stream.SendMsg(hello); err != nil && !errors.Is(err, io.EOF) {
		return nil, rpcError(err)
	}
	var event tunnelpb.ControlEvent
	if err := stream.RecvMsg(&event); err != nil {
		return nil, rpcError(err)
	}
	welcome := event.GetWelcome()
	if welcome == nil {
		return nil, errors.New("the agent did not begin with a welcome")
	}
	if welcome.GetVersion() != protocolVersion {
		return nil, fmt.Errorf("the agent (%s) speaks version %d of the protocol, this program version %d",
			welcome.GetAgentVersion(), welcome.GetVersion(), protocolVersion)
	}
	heartbeat := time.Duration(welcome.GetHeartbeatMilliseconds()) * time.Millisecond
	if heartbeat <= 0 {
		heartbeat = defaultHeartbeat
	}
	return &controlClient{stream: stream, heartbeat: heartbeat, waiting: make(map[uint64]chan string)}, nil
}

// receiveControl takes what the agent says until the stream ends, and returns why.
func (c *Client) receiveControl() error {
	for {
		var m tunnelpb.ControlEvent
		if err := c.control.stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("tunnel lost: the agent ended it")
			}
			return fmt.Errorf("tunnel lost: %w", rpcError(err))
		}
		c.control.heard.Store(true)
		if ack := m.GetAck(); ack != nil {
			c.control.acknowledge(ack)
			continue
		}
		if event := eventOf(&m); event != nil {
			select {
			case c.events <- event:
			default:
				c.log.Warn("drop an event of the agent: nobody reads", "event", fmt.Sprintf("%T", event))
			}
		}
	}
}

// sendHeartbeats tells the agent that this end lives, and ends the tunnel when the agent
// does not. It returns when the tunnel has ended.
func (c *Client) sendHeartbeats() {
	ticker := time.NewTicker(c.control.heartbeat)
	defer ticker.Stop()
	silent := 0
	for sequence := uint64(1); ; sequence++ {
		select {
		case <-ticker.C:
		case <-c.done:
			return
		}
		if c.control.heard.Swap(false) {
			silent = 0
		} else if silent++; silent >= patience {
			c.end(fmt.Errorf("tunnel lost: no word from the agent for %s", patience*c.control.heartbeat))
			return
		}
		_ = c.control.send(&tunnelpb.ControlRequest{Kind: &tunnelpb.ControlRequest_Heartbeat{
			Heartbeat: &tunnelpb.Heartbeat{Sequence: sequence},
		}}) // a failure shows in receiveControl
	}
}

func (s *controlClient) send(m *tunnelpb.ControlRequest) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.stream.SendMsg(m)
}

func (s *controlClient) acknowledge(ack *tunnelpb.Ack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch := s.waiting[ack.GetId()]; ch != nil {
		ch <- ack.GetError() // capacity 1, and each id is answered once
		delete(s.waiting, ack.GetId())
	}
}

// request sends a request and waits until the agent has done it.
func (c *Client) request(ctx context.Context, what string, m *tunnelpb.ControlRequest) error {
	s := c.control
	m.Id = s.ids.Add(1)
	answer := make(chan string, 1)
	s.mu.Lock()
	s.waiting[m.Id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting, m.Id)
	}()
	if err := s.send(m); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", what, err)
	}
	select {
	case text := <-answer:
		if text != "" {
			return fmt.Errorf("%s: the agent says: %s", what, text)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case <-c.done:
		return fmt.Errorf("%s: %w", what, c.Err())
	}
}

// RoundTrip measures how long a word to the agent and its answer take now.
func (c *Client) RoundTrip(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	err := c.request(ctx, "measure the way to the agent", &tunnelpb.ControlRequest{
		Kind: &tunnelpb.ControlRequest_Heartbeat{Heartbeat: &tunnelpb.Heartbeat{}},
	})
	return time.Since(begun), err
}

// SetReady tells the agent whether the local process listens, which is what the pod's
// readiness probe is answered by. It returns once the agent answers so. Ready also ends
// a Hold.
func (c *Client) SetReady(ctx context.Context, ready bool) error {
	return c.request(ctx, "set the agent's readiness", &tunnelpb.ControlRequest{
		Kind: &tunnelpb.ControlRequest_SetReady{SetReady: &tunnelpb.SetReady{Ready: ready}},
	})
}

// Hold tells the agent that the local process is gone: it stays as ready as it was and
// keeps the connections that arrive waiting, until HandOver or SetReady(true).
func (c *Client) Hold(ctx context.Context) error {
	return c.request(ctx, "have the agent hold connections", &tunnelpb.ControlRequest{
		Kind: &tunnelpb.ControlRequest_Hold{Hold: &tunnelpb.Hold{}},
	})
}

// HandOver has the agent relay the connections that it holds, and those that arrive
// from now on, to the same port of one of addrs.
func (c *Client) HandOver(ctx context.Context, addrs []netip.Addr) error {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return c.request(ctx, "hand connections over to the pods", &tunnelpb.ControlRequest{
		Kind: &tunnelpb.ControlRequest_HandOver{HandOver: &tunnelpb.HandOver{Addresses: texts}},
	})
}

// goodbye tells the agent, for a moment, that the tunnel is ended on purpose.
func (c *Client) goodbye() {
	if c.control == nil {
		return
	}
	if err := c.control.send(&tunnelpb.ControlRequest{
		Kind: &tunnelpb.ControlRequest_Goodbye{Goodbye: &tunnelpb.Goodbye{}},
	}); err != nil {
		return
	}
	// The agent answers by ending the stream, which ends the tunnel.
	timer := time.NewTimer(goodbyeTime)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
}
