package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/procnet"
)

// place is one where something listens, or not.
type placeHere struct {
	name string

	mu    sync.Mutex
	ports []uint16
	fails error // of each connection; nil: as ports say
	reads int   // of the table
}

func (p *placeHere) listen(ports ...uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports = ports
}

func (p *placeHere) Listening() ([]procnet.Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	var all []procnet.Socket
	for _, port := range p.ports {
		all = append(all, procnet.Socket{Network: "tcp4", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port)})
	}
	return all, nil
}

// called is the connection to a place, which bears its name.
type called struct {
	net.Conn
	name string
}

func (p *placeHere) DialTCP(_ context.Context, _, local netip.AddrPort) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails != nil {
		return nil, p.fails
	}
	for _, port := range p.ports {
		if port == local.Port() {
			return called{name: p.name}, nil
		}
	}
	return nil, syscall.ECONNREFUSED
}

func (p *placeHere) DialUDP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	return p.DialTCP(ctx, client, local)
}

func TestHeldServesByEitherPlace(t *testing.T) {
	box, laptop := &placeHere{name: "box"}, &placeHere{name: "laptop"}
	h := newHeld(box, laptop)
	at := netip.AddrPortFrom(podAddr, 8080)
	dial := func() string {
		c, err := h.DialTCP(t.Context(), someClient, at)
		if err != nil {
			return err.Error()
		}
		return c.(called).name
	}
	if got := dial(); got != syscall.ECONNREFUSED.Error() {
		t.Errorf("with nobody there: %s", got)
	}
	for _, c := range []struct {
		want        string
		box, laptop []uint16
		listening   int
	}{
		{"laptop", nil, []uint16{8080}, 1},
		{"box", []uint16{8080}, []uint16{8080}, 2},
		{"laptop", []uint16{9090}, []uint16{8080}, 2},
		{"box", []uint16{8080}, nil, 1},
	} {
		box.listen(c.box...)
		laptop.listen(c.laptop...)
		if got := dial(); got != c.want {
			t.Errorf("sandbox %v, laptop %v: served by %s, want %s", c.box, c.laptop, got, c.want)
		}
		if socks, err := h.Listening(); err != nil || len(socks) != c.listening {
			t.Errorf("listening: %v, %v", socks, err)
		}
	}
	if c, err := h.DialUDP(t.Context(), someClient, at); err == nil || c != nil {
		t.Errorf("datagrams went to the sandbox, where only TCP is listened for: %v", c)
	}
}

// TestHeldAsksByConnecting: the sandbox's sockets are not read for each connection, and only what is refused there goes to the
// laptop.
func TestHeldAsksByConnecting(t *testing.T) {
	box, laptop := &placeHere{name: "box"}, &placeHere{name: "laptop"}
	h := newHeld(box, laptop)
	at := netip.AddrPortFrom(podAddr, 8080)
	box.listen(8080)
	laptop.listen(8080, 9090)
	for port, want := range map[uint16]string{8080: "box", 9090: "laptop"} {
		c, err := h.DialTCP(t.Context(), someClient, netip.AddrPortFrom(podAddr, port))
		if err != nil || c.(called).name != want {
			t.Errorf("port %d: got %v, %v, want the %s", port, c, err, want)
		}
	}
	if box.reads != 0 {
		t.Errorf("the sandbox's sockets were read %d times", box.reads)
	}
	box.fails = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EADDRINUSE}
	if c, err := h.DialTCP(t.Context(), someClient, at); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("what the sandbox cannot take now: got %v, %v", c, err)
	}
	box.fails = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	if c, err := h.DialTCP(t.Context(), someClient, at); err != nil || c.(called).name != "laptop" {
		t.Errorf("what the sandbox's kernel refuses: got %v, %v", c, err)
	}
	box.fails = &net.OpError{Op: "dial", Net: "tcp", Err: sandbox.ErrStopped}
	if c, err := h.DialTCP(t.Context(), someClient, at); err != nil || c.(called).name != "laptop" {
		t.Errorf("when the sandbox is stopped: got %v, %v", c, err)
	}
	if c, err := newHeld(nowhere{}, laptop).DialTCP(t.Context(), someClient, at); err != nil || c.(called).name != "laptop" {
		t.Errorf("without a sandbox: got %v, %v", c, err)
	}
}

// TestHeldWaitsForARestart: what was served once is soon there again.
func TestHeldWaitsForARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, laptop := &placeHere{name: "box"}, &placeHere{name: "laptop"}
		h := newHeld(box, laptop)
		at := netip.AddrPortFrom(podAddr, 8080)
		laptop.listen(8080)
		if _, err := h.DialTCP(t.Context(), someClient, at); err != nil {
			t.Fatal(err)
		}
		laptop.listen()
		go func() {
			time.Sleep(9 * time.Second)
			box.listen(8080)
		}()
		c, err := h.DialTCP(t.Context(), someClient, at)
		if err != nil || c.(called).name != "box" {
			t.Errorf("got %v, %v", c, err)
		}
		box.listen()
		began := time.Now()
		if _, err := h.DialTCP(t.Context(), someClient, at); !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) != heldPatience {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.DialTCP(ctx, someClient, at); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
