package ping

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEcho(t *testing.T) {
	for _, c := range []struct {
		name, dst string
		payload   int
	}{
		{"IPv4", "127.0.0.1", 56},
		{"IPv6", "::1", 56},
		{"mapped", "::ffff:127.0.0.1", 56},
		{"nothing in it", "127.0.0.1", 0},
		{"long", "127.0.0.1", 60000},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Echo(t.Context(), netip.MustParseAddr(c.dst), make([]byte, c.payload))
			if errors.Is(err, ErrUnavailable) {
				t.Skip("SKIPPED: ", err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNoReply(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := Echo(ctx, netip.MustParseAddr("127.0.0.1"), make([]byte, 70000))
	if errors.Is(err, ErrUnavailable) {
		t.Skip("SKIPPED: ", err)
	}
	if err == nil {
		t.Error("70000 bytes were sent in one packet")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Echo(ended, netip.MustParseAddr("127.0.0.1"), nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}
