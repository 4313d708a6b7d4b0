package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Flow carries datagrams between two connections of which each Read and each Write is one datagram.
type Flow struct {
	// Idle is how long both ends may be silent before the flow ends. Zero: for ever.
	Idle time.Duration

	used atomic.Int64 // when the last datagram came, in ns since 1970
}

// Touch lets the flow count as used just now.
func (f *Flow) Touch() { f.used.Store(time.Now().UnixNano()) }

// Used is when the last datagram came. It may be called while the flow is relayed.
func (f *Flow) Used() time.Time { return time.Unix(0, f.used.Load()) }

// Relay copies datagrams between a and b until one of them fails or has ended, or both were silent for Idle. It closes
// both. It returns what failed first, nil where the flow ended in silence or by Close of either. A datagram that cannot
// be sent (too long, no buffer) is lost, as datagrams are: only what says that nobody takes them (ECONNREFUSED,
// an unreachable network …) is a failure.
func (f *Flow) Relay(a, b net.Conn) error {
	f.Touch()
	end := sync.OnceFunc(func() { _, _ = a.Close(), b.Close() })
	defer end()
	if f.Idle > 0 {
		watch := f.watch(end)
		defer watch()
	}
	var p pair
	var ways sync.WaitGroup
	ways.Go(func() {
		defer end()
		f.copy(&p, a, b)
	})
	f.copy(&p, b, a)
	end()
	ways.Wait()
	return p.failure
}

// watch calls end when the flow has been idle; the func returned ends the watching.
func (f *Flow) watch(end func()) func() {
	var (
		mu      sync.Mutex
		timer   *time.Timer
		stopped bool
	)
	look := func() {
		left := f.Idle - time.Since(f.Used())
		if left <= 0 {
			end()
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			timer.Reset(left)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(f.Idle, look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// copy carries datagrams one way. It ends when src or dst has.
func (f *Flow) copy(p *pair, dst, src net.Conn) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if err != nil {
			if !errors.Is(err, io.EOF) && !isClosed(err) {
				p.fail(err)
			}
			return
		}
		f.Touch()
		if _, err := dst.Write((*buf)[:n]); err != nil && !onlyLost(err) {
			if !isClosed(err) {
				p.fail(err)
			}
			return
		}
	}
}

// isClosed says whether an error only means that the flow has ended at this end.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// onlyLost says whether a datagram could not be sent for reasons of its own.
func onlyLost(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMSGSIZE, syscall.ENOBUFS, syscall.EAGAIN, syscall.ENOMEM, syscall.EPERM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
