package agent

import (
	"sync"
	"time"
)

// alone is for an agent that stands in nobody's place, but serves a laptop alone: without one it is of no use to anybody, and
// nobody else is there to end it. Nil is an agent that stands in somebody's place.
type alone struct {
	patience time.Duration
	over     chan struct{} // closed when no laptop was there for that long
	timer    *time.Timer

	mu     sync.Mutex
	laptop bool
}

// newAlone begins to wait for a laptop.
func newAlone(patience time.Duration) *alone {
	if patience <= 0 {
		return nil
	}
	a := &alone{patience: patience, over: make(chan struct{})}
	a.timer = time.AfterFunc(patience, sync.OnceFunc(func() { close(a.over) }))
	return a
}

// tooLong is closed when the agent is to end; nil: it never is.
func (a *alone) tooLong() <-chan struct{} {
	if a == nil {
		return nil
	}
	return a.over
}

// note notes that a laptop has come or gone.
func (a *alone) note(connected bool) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.laptop = connected
	a.timer.Stop()
	if !connected {
		a.timer.Reset(a.patience)
	}
}

// deserted says that there is nobody whom the agent serves.
func (a *alone) deserted() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.laptop
}
