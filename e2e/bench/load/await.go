package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Awaited is when a name was first answered, and what was asked until then.
type Awaited struct {
	At time.Time
	// Asked and Failed count the requests whose end was seen before that.
	Asked, Failed int
	// FirstError is that of the first that failed, empty without one.
	FirstError string
}

// AwaitName asks for the server's name every interval, without waiting for
// the answers before, until one is want. A request takes at most limit. It
// returns an error only when ctx ends first.
//
// Requests overlap because one that is held on the way must not hide that the
// next one would be answered.
func (c *Client) AwaitName(ctx context.Context, want string, interval, limit time.Duration) (Awaited, error) {
	ctx, cancel := context.WithCancel(ctx)
	var (
		asks sync.WaitGroup
		mu   sync.Mutex
		seen Awaited
		last = "nothing was answered"
		// answered is whether last tells of an answer.
		answered bool
		found    = make(chan struct{})
	)
	defer asks.Wait()
	defer cancel()
	ask := func() {
		name, err := c.AskName(ctx, limit)
		mu.Lock()
		defer mu.Unlock()
		if !seen.At.IsZero() || ctx.Err() != nil {
			return
		}
		seen.Asked++
		switch {
		case err != nil:
			seen.Failed++
			if seen.FirstError == "" {
				seen.FirstError = err.Error()
			}
			if !answered { // another server's answer says more than the end of our patience
				last = err.Error()
			}
		case name == want:
			seen.At = time.Now()
			close(found)
		default:
			answered, last = true, fmt.Sprintf("%q answered", name)
		}
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		asks.Go(ask)
		select {
		case <-found:
			mu.Lock()
			defer mu.Unlock()
			return seen, nil
		case <-ctx.Done():
			mu.Lock()
			defer mu.Unlock()
			return Awaited{}, fmt.Errorf("await %q from %s: %w (%d asked, %d failed; last: %s)",
				want, c.Address, ctx.Err(), seen.Asked, seen.Failed, last)
		case <-tick.C:
		}
	}
}
