package entrance

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers one client what it is sent, by TCP or UDP, and ends with the test.
func echo(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pc.Close() })
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo(buf[:n], from)
			}
		}()
		return pc.LocalAddr().String()
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	go func() {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.Copy(c, c)
	}()
	return lis.Addr().String()
}

// open makes an entrance on loopback, and returns where it is.
func open(t *testing.T, e *Entrance, network string) net.Addr {
	t.Helper()
	if network == "udp" {
		pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(err)
		}
		e.Receive(t.Context(), pc)
		return pc.LocalAddr()
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.Listen(t.Context(), lis)
	return lis.Addr()
}

func TestJoins(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			far := echo(t, network)
			asked := make(chan netip.AddrPort, 1)
			e := &Entrance{Name: "a test's", Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context, from, _ netip.AddrPort) (net.Conn, error) {
				asked <- from
				var d net.Dialer
				return d.DialContext(ctx, network, far)
			}}
			c, err := net.Dial(network, open(t, e, network).String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 8)
			for _, text := range []string{"one", "two"} {
				if _, err := io.WriteString(c, text); err != nil {
					t.Fatal(err)
				}
				if n, err := io.ReadAtLeast(c, buf, 3); err != nil || string(buf[:n]) != text {
					t.Fatalf("answered %q, %v", buf[:n], err)
				}
			}
			e.Close()
			if from := <-asked; from != AddrPortOf(c.LocalAddr()) {
				t.Errorf("dialled for %s, want %s", from, c.LocalAddr())
			}
			if network == "udp" {
				return
			}
			var timeout net.Error
			if _, err := c.Read(buf); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("the connection outlives the entrance: %v", err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	e := &Entrance{Name: "a test's", Log: slog.New(slog.DiscardHandler), Dial: func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
		return nil, errors.New("nobody is there")
	}}
	at := open(t, e, "tcp")
	defer e.Close()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return // the reset came as early as that
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that leads nowhere stays")
	}
}
