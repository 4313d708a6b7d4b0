package tun

import (
	"os"
	"sync"
)

// Pair makes two devices in memory: what is written to one is read from the other. It queues some packets and
// blocks then, as a device of the kernel would drop: for tests.
func Pair(mtu int) (Device, Device) {
	const queued = 256
	ab, ba := make(chan []byte, queued), make(chan []byte, queued)
	done, once := make(chan struct{}), new(sync.Once)
	return &memory{mtu: mtu, in: ba, out: ab, done: done, once: once},
		&memory{mtu: mtu, in: ab, out: ba, done: done, once: once}
}

// memory is one end of a pair. Closing either end closes both.
type memory struct {
	mtu  int
	in   <-chan []byte
	out  chan<- []byte
	done chan struct{}
	once *sync.Once
}

// Read implements Device.
func (m *memory) Read(p []byte) (int, error) {
	select {
	case b := <-m.in:
		return copy(p, b), nil
	case <-m.done:
		return 0, os.ErrClosed
	}
}

// Write implements Device.
func (m *memory) Write(pieces [][]byte) error {
	var b []byte
	for _, p := range pieces {
		b = append(b, p...)
	}
	select {
	case <-m.done:
		return os.ErrClosed
	default:
	}
	select {
	case m.out <- b:
		return nil
	case <-m.done:
		return os.ErrClosed
	}
}

// MTU implements Device.
func (m *memory) MTU() int { return m.mtu }

// Close implements Device.
func (m *memory) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}
