package load_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/e2e/bench/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server on loopback until the test ends, and returns a client of it.
func serve(t *testing.T, name string) *load.Client {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- (&load.Server{Name: name}).Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &load.Client{Address: lis.Addr().String()}
}

const short = 20 * time.Millisecond

func TestBulk(t *testing.T) {
	client := serve(t, "")
	for _, tc := range []struct {
		name    string
		measure func(context.Context, int, time.Duration) (load.Bulk, error)
		streams int
	}{
		{"down 1", client.Down, 1},
		{"down 8", client.Down, 8},
		{"up 1", client.Up, 1},
		{"up 8", client.Up, 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.measure(t.Context(), tc.streams, short)
			if err != nil {
				t.Fatal(err)
			}
			if least := int64(tc.streams) * 64 << 10; got.Bytes < least || got.Elapsed < short || got.Rate() <= 0 {
				t.Errorf("got %+v, want at least %d bytes and %v", got, least, short)
			}
		})
	}
}

func TestLatency(t *testing.T) {
	client := serve(t, "")
	trip, err := client.RoundTrip(t.Context(), short)
	if err != nil {
		t.Fatal(err)
	}
	if trip.Count < 1 || trip.P50 <= 0 || trip.P99 < trip.P50 {
		t.Errorf("round trip: got %+v", trip)
	}
	dial, err := client.Connect(t.Context(), 3, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if dial.Count != 3 || dial.P50 <= 0 || dial.P99 < dial.P50 {
		t.Errorf("connect: got %+v, want 3 of them", dial)
	}
}

func TestBurst(t *testing.T) {
	got := serve(t, "").Burst(t.Context(), 100, 10*time.Second)
	if got.Opened != 100 || got.Alive != 100 || got.FirstError != "" || got.Elapsed <= 0 {
		t.Errorf("got %+v, want 100 opened and alive", got)
	}
}

// TestBurstCountsTheLost has a server that answers only the first few
// connections and holds the others, as a relay with a bound on streams does.
func TestBurstCountsTheLost(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	const answered = 5
	var accepted atomic.Int32
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			if accepted.Add(1) <= answered {
				go func() {
					b := make([]byte, 16)
					for {
						n, err := conn.Read(b)
						if err != nil {
							return
						}
						// The header is eight bytes; what follows comes back.
						if _, err := conn.Write(b[:n%8]); err != nil {
							return
						}
					}
				}()
			}
		}
	}()
	got := (&load.Client{Address: lis.Addr().String()}).Burst(t.Context(), 8, 300*time.Millisecond)
	if got.Wanted != 8 || got.Opened != answered || got.Alive != answered {
		t.Errorf("got %+v, want %d opened and alive", got, answered)
	}
	if !strings.Contains(got.FirstError, "first echo") {
		t.Errorf("first error is %q, want one of the first echo", got.FirstError)
	}
}

func TestRefused(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := &load.Client{Address: lis.Addr().String()}
	_ = lis.Close()
	if _, err := client.Down(t.Context(), 1, short); err == nil {
		t.Error("down: no error")
	}
	if _, err := client.Up(t.Context(), 1, short); err == nil {
		t.Error("up: no error")
	}
	if _, err := client.RoundTrip(t.Context(), short); err == nil {
		t.Error("round trip: no error")
	}
	if _, err := client.Connect(t.Context(), 1, short); err == nil {
		t.Error("connect: no error")
	}
	if got := client.Burst(t.Context(), 3, time.Second); got.Opened != 0 || got.FirstError == "" {
		t.Errorf("burst: got %+v", got)
	}
}

func TestAwaitName(t *testing.T) {
	client := serve(t, "local")
	got, err := client.AwaitName(t.Context(), "local", time.Millisecond, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got.At.IsZero() || got.Asked < 1 {
		t.Errorf("got %+v", got)
	}

	if got.Failed != 0 || got.FirstError != "" {
		t.Errorf("got %+v, want none failed", got)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = client.AwaitName(ctx, "pod", time.Millisecond, time.Second)
	if err == nil || !strings.Contains(err.Error(), `"local" answered`) {
		t.Errorf("got error %v, want one that says what was answered instead", err)
	}
}
