package tunnel

import (
	"sync"
	"time"
)

// deadline is one direction's deadline: a channel that is closed while it is past.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // made on first use
	moves   uint64        // tells a timer that fired late from the one in force
}

// set moves the deadline; the zero time means none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.moves++
	if d.expired == nil || isClosed(d.expired) {
		d.expired = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(d.expired)
		return
	}
	move := d.moves
	d.timer = time.AfterFunc(wait, func() { d.expire(move) })
}

// expire closes the channel unless the deadline was moved since.
func (d *deadline) expire(move uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moves == move {
		close(d.expired)
	}
}

// done returns the channel that is closed when the deadline passes.
func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.expired == nil {
		d.expired = make(chan struct{})
	}
	return d.expired
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
