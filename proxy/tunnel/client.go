package tunnel

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// PodView is what the agent reports of its pod.
type PodView = tunnelpb.PodView

// PortState is one port of a PodView.
type PortState = tunnelpb.PortState

// defaultParked streams serve a burst of as many connections without a round trip.
const defaultParked = 16

// ErrClosed is Client.Err after Close.
var ErrClosed = errors.New("tunnel closed")

// ClientConfig is what Connect needs.
type ClientConfig struct {
	// Dial returns a connection to the agent that is already through ClientHandshake.
	Dial func(context.Context) (net.Conn, error)
	// Parked is how many inbound streams are kept parked at the agent; 0 means 16.
	Parked int
	// Logger; nil discards.
	Logger *slog.Logger
}

// Client is the laptop's end of a tunnel. Its methods are safe for concurrent use. A
// tunnel that was lost stays lost: Done is closed, Err says why, connections are reset.
type Client struct {
	conn    *grpc.ClientConn
	log     *slog.Logger
	parked  int
	control *controlClient
	buffers frameBuffers
	events  chan Event
	streams atomic.Uint64 // the last stream id given

	done chan struct{}

	mu      sync.Mutex
	err     error // why the tunnel ended
	closing bool  // no more goroutines
	wg      sync.WaitGroup
}

// Connect makes a tunnel over a connection from cfg.Dial. It returns once the agent
// has answered; ctx bounds only that. The caller closes the client.
func Connect(ctx context.Context, cfg ClientConfig) (*Client, error) {
	raw, err := cfg.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial the agent: %w", err)
	}
	c, err := newClient(raw, cfg)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	if err := c.openControl(ctx); err != nil {
		c.end(err)
		_ = c.Close()
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	return c, nil
}

func newClient(raw net.Conn, cfg ClientConfig) (*Client, error) {
	c := &Client{
		log:    cfg.Logger,
		parked: cfg.Parked,
		events: make(chan Event, maxEvents),
		done:   make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.parked <= 0 {
		c.parked = defaultParked
	}
	// The upper half tells the streams of this client from those of one before it.
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	c.streams.Store(uint64(binary.BigEndian.Uint32(random[:])) << 32)

	once := make(chan net.Conn, 1)
	once <- raw
	conn, err := grpc.NewClient("passthrough:///agent",
		// The connection is secure already, and is the only one: gRPC must not dial again.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case raw := <-once:
				return raw, nil
			default:
				return nil, errors.New("tunnel lost")
			}
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			// A frame must not be kept for a retry: its return is what Write waits for.
			grpc.MaxRetryRPCBufferSize(0),
			grpc.MaxCallRecvMsgSize(maxMessage),
			grpc.MaxCallSendMsgSize(maxMessage),
		),
	)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	return c, nil
}

// end marks the tunnel as over, for the first reason given, and resets its streams.
func (c *Client) end(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		if c.closing { // the agent ends the stream after our goodbye
			err = ErrClosed
		}
		c.err = err
		close(c.done)
	}
	c.mu.Unlock()
	if first {
		_ = c.conn.Close() // ends every stream
	}
}

// Lose ends a tunnel that is found to be dead, before its heartbeats find it: its connections are reset, without a goodbye. It does
// not wait; Close does.
func (c *Client) Lose(err error) { c.end(err) }

// spawn runs f in a goroutine that Close waits for. After Close it does nothing: all
// that f could do is over.
func (c *Client) spawn(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.wg.Go(f)
	}
}

// Done is closed when the tunnel has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the tunnel has ended: ErrClosed after Close. It is nil before.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Events tells what the agent announces. It is closed by Close.
func (c *Client) Events() <-chan Event { return c.events }

// Close says goodbye to the agent, ends the tunnel with all its connections (which are
// reset) and waits for its goroutines. Accept returns too. It may be called twice.
func (c *Client) Close() error {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	c.mu.Unlock()
	if first && c.Err() == nil {
		c.goodbye()
	}
	c.end(ErrClosed)
	c.wg.Wait()
	if first {
		close(c.events)
	}
	return nil
}

// DialContext connects from the pod to address, an IP address and port; network is
// "tcp", "tcp4", "tcp6", "udp", "udp4" or "udp6". It returns once the pod's connect has
// succeeded or failed; the error then is a *net.OpError that wraps the syscall.Errno that
// the pod got (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT, EACCES …). The
// connection is a *Conn, or a *Flow. The caller closes it; a flow has no idle time-out.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(to net.Addr, err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: err}
	}
	kind := networkTCP
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "udp", "udp4", "udp6":
		kind = networkUDP
	default:
		return fail(nil, net.UnknownNetworkError(network))
	}
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return fail(nil, &net.AddrError{Err: "not an IP address and port", Addr: address})
	}
	conn, err := c.dial(ctx, kind, dst)
	if err != nil {
		return fail(kind.addr(dst), err)
	}
	if kind == networkUDP {
		return &Flow{conn: conn}, nil
	}
	return conn, nil
}

// DialFiles opens a byte stream on which the agent serves SFTP, version 3 of the protocol
// (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions: paths are the pod's and absolute,
// rights are the agent's. Each call gets a server of its own. The caller closes the stream.
func (c *Client) DialFiles(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx, networkFiles, noAddress())
	if err != nil {
		return nil, fmt.Errorf("open the pod's files: %w", err)
	}
	return conn, nil
}

// noAddress stands where a stream has none.
func noAddress() netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), 0) }

func (c *Client) dial(ctx context.Context, kind network, dst netip.AddrPort) (*Conn, error) {
	// The connection outlives the call that made it.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	conn, err := c.openStream(streamCtx, cancel, kind, dst)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	c.spawn(conn.run)
	return conn, nil
}

// openStream sends OPEN and waits for the agent's answer.
func (c *Client) openStream(ctx context.Context, cancel context.CancelFunc, kind network, dst netip.AddrPort) (*Conn, error) {
	frames, err := c.newStream(ctx, methodDial)
	if err != nil {
		return nil, c.lost(err)
	}
	frames.datagrams = kind == networkUDP
	open := openBody{stream: c.streams.Add(1), network: kind, address: dst}
	if err := frames.sendBody(kindOpen, open.append(nil)); err != nil {
		return nil, c.lost(streamError(frames, err))
	}
	k, body, err := frames.expect(kindOpened, kindFailed)
	if err != nil {
		return nil, c.lost(err)
	}
	if k == kindFailed {
		failure, err := parseFailure(k, body)
		if err != nil {
			return nil, err
		}
		return nil, os.NewSyscallError("connect", failure.code.errno())
	}
	opened, err := parseOpened(body)
	if err != nil {
		return nil, err
	}
	return newConn(frames, cancel, c.spawn, kind.addr(opened.local), kind.addr(opened.remote)), nil
}

func (c *Client) newStream(ctx context.Context, method string) (frameStream, error) {
	stream, err := c.conn.NewStream(ctx, rawStream(method), methodPath(method))
	if err != nil {
		return frameStream{}, err
	}
	return frameStream{stream: stream, buffers: newSendQueue(&c.buffers)}, nil
}

// streamError finds the reason behind a failed send: gRPC tells it to the receiver.
func streamError(frames frameStream, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	var m inFrame
	if rerr := frames.recv(&m); rerr != nil {
		return rerr
	}
	m.free()
	return err
}

// lost explains a stream's failure by the tunnel's end, where that is the reason. To a
// connection it is what an unreachable network is.
func (c *Client) lost(err error) error {
	if end := c.Err(); end != nil {
		err = end
	}
	return fmt.Errorf("%w (%w)", syscall.ENETUNREACH, err)
}

// Exchange asks the pod's nameservers one DNS message, by UDP and, where the answer is
// truncated, by TCP. The answer is theirs, whatever its response code.
func (c *Client) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	answer := &tunnelpb.DNSMessage{}
	err := c.conn.Invoke(ctx, methodPath(methodExchange), &tunnelpb.DNSMessage{Message: msg}, answer)
	if err != nil {
		return nil, fmt.Errorf("ask the pod's nameservers: %w", rpcError(err))
	}
	return answer.GetMessage(), nil
}

// PodView asks the agent for what it sees of its pod.
func (c *Client) PodView(ctx context.Context) (*PodView, error) {
	view := &PodView{}
	if err := c.conn.Invoke(ctx, methodPath(methodView), &tunnelpb.PodViewRequest{}, view); err != nil {
		return nil, fmt.Errorf("ask the agent for its pod view: %w", rpcError(err))
	}
	return view, nil
}
