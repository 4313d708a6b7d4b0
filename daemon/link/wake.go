package link

import (
	"context"
	"errors"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

const (
	// wakeEvery is how often the clock is looked at.
	wakeEvery = 500 * time.Millisecond
	// wakeJump is by how much more than that the clock must have moved to say that this machine, or this process, has slept. A busy
	// machine may well be late by less.
	wakeJump = 3 * time.Second
	// wakePatience is how long an agent may take to answer after that.
	wakePatience = time.Second
)

// errSlept says that a tunnel did not outlive a sleep.
var errSlept = errors.New("tunnel lost: no answer from the agent after this machine had slept")

// wakeLoop notices that this machine has slept, by the jump of its clock, and asks the agent at once whether the tunnel still stands:
// its heartbeats would find out much later. wall is the wall clock: the monotonic one may stand still while a machine sleeps.
// It ends with ctx.
func (l *Link) wakeLoop(ctx context.Context, ticks <-chan time.Time, wall func() time.Time) {
	last := wall()
	for {
		select {
		case <-ticks:
		case <-ctx.Done():
			return
		}
		now := wall()
		slept := now.Sub(last) - wakeEvery
		last = now
		if slept < wakeJump {
			continue
		}
		client, _ := l.Current()
		l.log.Info("this machine has slept", "for", slept)
		select {
		case l.woke <- struct{}{}:
		default:
		}
		if err := probe(ctx, client); err != nil && ctx.Err() == nil {
			l.log.Info("the tunnel did not outlive it", "error", err)
			client.Lose(errSlept)
		}
	}
}

func wall() time.Time { return time.Now().Round(0) }

// probe has the agent answer.
func probe(ctx context.Context, client *tunnel.Client) error {
	ctx, cancel := context.WithTimeout(ctx, wakePatience)
	defer cancel()
	_, err := client.PodView(ctx)
	return err
}
