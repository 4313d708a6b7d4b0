package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/procnet"
)

const (
	// heldEvery is how often a connection that waits for a process to listen again looks for it.
	heldEvery = 50 * time.Millisecond
	// heldPatience is how long it does: an IDE builds and starts a small program within it.
	heldPatience = 10 * time.Second
)

// held serves by whatever the user has started by himself: in the sandbox, or else on the laptop. What was served once is
// waited for a while when it is gone, since it is being started again.
type held struct {
	box, laptop served

	mu   sync.Mutex
	seen map[uint16]bool // ports of TCP that were connected to
}

func newHeld(box, laptop served) *held {
	return &held{box: box, laptop: laptop, seen: map[uint16]bool{}}
}

// Listening implements listens: what listens at either place.
func (h *held) Listening() ([]procnet.Socket, error) {
	return either{box: h.box, laptop: h.laptop}.Listening()
}

// nowhere nothing listens.
type nowhere struct{}

// Listening implements listens.
func (nowhere) Listening() ([]procnet.Socket, error) { return nil, nil }

// DialTCP implements served.
func (nowhere) DialTCP(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
	return nil, syscall.ECONNREFUSED
}

// DialUDP implements served.
func (nowhere) DialUDP(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
	return nil, syscall.ECONNREFUSED
}

// either is where something listens at one of two places.
type either struct {
	box, laptop listens
	ports       []port // the laptop's that matter: it has many others; nil: all
}

// Listening implements listens.
func (e either) Listening() ([]procnet.Socket, error) {
	inside, err := e.box.Listening()
	if err != nil {
		return nil, err
	}
	outside, err := e.laptop.Listening()
	if e.ports != nil {
		outside = slices.DeleteFunc(outside, func(s procnet.Socket) bool {
			return !slices.Contains(e.ports, port{int32(s.Addr.Port()), strings.HasPrefix(s.Network, "udp")})
		})
	}
	return slices.Concat(inside, outside), err
}

// DialTCP implements served.
func (h *held) DialTCP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	var tick *time.Ticker
	var over <-chan time.Time
	for {
		c, err := h.dialTCP(ctx, client, local)
		if err == nil {
			h.mu.Lock()
			h.seen[local.Port()] = true
			h.mu.Unlock()
			return c, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || !h.served(local.Port()) {
			return nil, err
		}
		if tick == nil {
			tick = time.NewTicker(heldEvery)
			defer tick.Stop()
			patience := time.NewTimer(heldPatience)
			defer patience.Stop()
			over = patience.C
		}
		select {
		case <-tick.C:
		case <-over:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dialTCP connects to what listens in the sandbox, or else on the laptop. That nothing listens in the sandbox its own refusal
// says, after three attempts to connect within its kernel, 0.2 ms together; to read its tables takes 40 times as long.
func (h *held) dialTCP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	c, err := h.box.DialTCP(ctx, client, local)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, sandbox.ErrStopped) {
		return h.laptop.DialTCP(ctx, client, local)
	}
	return c, err
}

// DialUDP implements served. Datagrams are not refused before they are sent, so it is looked up where they are received.
func (h *held) DialUDP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	socks, err := h.box.Listening()
	if err == nil && slices.ContainsFunc(socks, func(s procnet.Socket) bool {
		return s.Addr.Port() == local.Port() && strings.HasPrefix(s.Network, "udp")
	}) {
		return h.box.DialUDP(ctx, client, local)
	}
	return h.laptop.DialUDP(ctx, client, local)
}

// served says whether something has ever listened on the port.
func (h *held) served(port uint16) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[port]
}
