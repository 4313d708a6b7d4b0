package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// restarted is a process on a port of this machine that may be started again.
type restarted struct {
	t    *testing.T
	r    *restarts
	to   served
	port uint16

	lis *net.TCPListener
}

func newRestarted(t *testing.T) *restarted {
	t.Helper()
	p := &restarted{t: t, r: newRestarts(true)}
	p.to = patient(onLaptop(nil), p.r)
	p.listen()
	t.Cleanup(func() { _ = p.lis.Close() })
	return p
}

func (p *restarted) listen() {
	p.t.Helper()
	lis, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(p.port)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.lis = lis
	if p.port == 0 {
		p.port = uint16(lis.Addr().(*net.TCPAddr).Port)
	}
}

// stop closes the port, and what waits in its queue.
func (p *restarted) stop() {
	p.t.Helper()
	if err := p.lis.Close(); err != nil {
		p.t.Error(err)
	}
}

func (p *restarted) dial() (net.Conn, error) {
	c, err := p.to.DialTCP(p.t.Context(), netip.AddrPort{}, netip.AddrPortFrom(loopback4, p.port))
	if err == nil {
		p.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (p *restarted) mustDial() net.Conn {
	p.t.Helper()
	c, err := p.dial()
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// answer takes one connection, reads it to its end and answers.
func (p *restarted) answer(text string) (got []byte) {
	p.t.Helper()
	c, err := p.lis.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got, err = io.ReadAll(c); err != nil {
		p.t.Error(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		p.t.Error(err)
	}
	return got
}

// TestRestartGivesQueueToNext: what the old process had not accepted the next one gets, whole, whoever is told first, the
// reader or a writer.
func TestRestartGivesQueueToNext(t *testing.T) {
	for name, late := range map[string]bool{"all sent before": false, "half sent after": true} {
		t.Run(name, func(t *testing.T) {
			p := newRestarted(t)
			c := p.mustDial()
			halves := [2][]byte{bytes.Repeat([]byte("one "), 100), bytes.Repeat([]byte("two "), 100)}
			send := func(b []byte) {
				if _, err := c.Write(b); err != nil {
					t.Error(err)
				}
			}
			end := func() {
				send(halves[1])
				if err := c.(*renewable).CloseWrite(); err != nil {
					t.Error(err)
				}
			}
			send(halves[0])
			if !late {
				end()
			}
			p.stop()
			var work sync.WaitGroup
			defer work.Wait()
			var answer []byte
			var readErr error
			work.Go(func() { answer, readErr = io.ReadAll(c) })
			p.r.noteRestarting() // after its effect: both are on their way at once
			if late {
				work.Go(end)
			}
			p.listen()
			p.r.noteStarted()
			if got := p.answer("done"); !bytes.Equal(got, slices.Concat(halves[0], halves[1])) {
				t.Errorf("the next process got %d bytes, want %d in order", len(got), len(halves[0])+len(halves[1]))
			}
			work.Wait()
			if readErr != nil || string(answer) != "done" {
				t.Errorf("the client got %q, %v", answer, readErr)
			}
		})
	}
}

// TestRestartHoldsArrivals: who comes while nobody listens waits.
func TestRestartHoldsArrivals(t *testing.T) {
	p := newRestarted(t)
	p.stop()
	p.r.noteRestarting()
	var arrivals sync.WaitGroup
	for range 20 {
		arrivals.Go(func() {
			if c, err := p.dial(); err != nil {
				t.Error(err)
			} else {
				_ = c.Close()
			}
		})
	}
	p.r.noteStarted()
	p.listen()
	arrivals.Wait()
}

// TestRestartIsNotWaitedForForEver: neither where no restart is, nor when its time is over, nor by who is gone.
func TestRestartIsNotWaitedForForEver(t *testing.T) {
	p := newRestarted(t)
	p.stop()
	refused := func(when string) {
		t.Helper()
		if _, err := p.dial(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v, want refused", when, err)
		}
	}
	refused("without a restart")
	p.r.noteStarted() // the first start of all
	refused("at the first start")
	p.r.noteRestarting()
	began := time.Now()
	p.r.now = func() time.Time { return time.Now().Add(restartPatience) }
	refused("when the time is over")
	p.r.now = func() time.Time { return began }
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.to.DialTCP(gone, netip.AddrPort{}, netip.AddrPortFrom(loopback4, p.port)); err == nil {
		t.Error("connected")
	}
}

// TestRestartPassesOnResets: that of a connection that was answered, of one that was given again already, of one without a
// restart, and of more bytes than are kept.
func TestRestartPassesOnResets(t *testing.T) {
	accept := func(t *testing.T, p *restarted) *net.TCPConn {
		t.Helper()
		c, err := p.lis.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	abort := func(c *net.TCPConn) {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	isReset := func(t *testing.T, c net.Conn) {
		t.Helper()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
	}
	t.Run("without a restart", func(t *testing.T) {
		p := newRestarted(t)
		c := p.mustDial()
		abort(accept(t, p))
		isReset(t, c)
	})
	t.Run("answered", func(t *testing.T) {
		p := newRestarted(t)
		c := p.mustDial()
		accepted := accept(t, p)
		if _, err := io.WriteString(accepted, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		p.r.noteRestarting()
		abort(accepted)
		isReset(t, c)
	})
	t.Run("twice", func(t *testing.T) {
		p := newRestarted(t)
		c := p.mustDial()
		p.r.noteRestarting()
		abort(accept(t, p))
		var second sync.WaitGroup
		second.Go(func() { // more than once where the reset comes so early that it is connect's, which is tried again
			for {
				c, err := p.lis.AcceptTCP()
				if err != nil {
					return
				}
				abort(c)
			}
		})
		isReset(t, c)
		p.stop()
		second.Wait()
	})
	t.Run("too long", func(t *testing.T) {
		p := newRestarted(t)
		c := p.mustDial()
		if _, err := c.Write(make([]byte, maxUnanswered+1)); err != nil {
			t.Fatal(err)
		}
		p.r.noteRestarting()
		abort(accept(t, p))
		isReset(t, c)
	})
}
