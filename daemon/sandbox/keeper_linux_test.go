package sandbox

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestKeeperEndsInTime: the grace that the first to go leaves is not made longer by the next who goes.
func TestKeeperEndsInTime(t *testing.T) {
	never := time.Hour
	for _, tt := range []struct {
		name              string
		cli, daemon, ends time.Duration // when they go
		want              time.Duration
	}{
		{"the CLI has gone", 0, never, never, orphanedGrace},
		{"the daemon has gone", never, 0, never, daemonlessGrace},
		{"the CLI, then the daemon", 0, 5 * time.Second, never, orphanedGrace},
		{"the daemon, then the CLI", 5 * time.Second, 0, never, 5*time.Second + orphanedGrace},
		{"the daemon, and late the CLI", daemonlessGrace - time.Second, 0, never, daemonlessGrace},
		{"the container ends by itself", 0, 0, time.Second, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				orders := make(chan Order) // the keeper forgets it when it is closed
				k := &keeper{orders: orders, ends: make(chan struct{})}
				sockets := &factory{gone: make(chan struct{}), end: make(chan struct{}, 1)}
				began := time.Now()
				timers := []*time.Timer{
					time.AfterFunc(tt.cli, func() { close(orders) }),
					time.AfterFunc(tt.daemon, func() { close(sockets.gone) }),
					time.AfterFunc(tt.ends, func() { close(k.ends) }),
				}
				if err := k.supervise(sockets); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != tt.want {
					t.Errorf("it ended after %s, want %s", took, tt.want)
				}
				for _, timer := range timers {
					timer.Stop()
				}
			})
		})
	}
}
