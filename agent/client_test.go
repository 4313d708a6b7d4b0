package agent

import (
	"net"
	"testing"
)

// sink takes whatever is written.
type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error) { return len(p), nil }

// TestAnswersAllocateNothing: every byte that the local process sends passes here.
func TestAnswersAllocateNothing(t *testing.T) {
	c := newClient(sink{})
	p := make([]byte, 1<<10)
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Write(p) }); n > 0 {
		t.Errorf("Write makes %v allocations", n)
	}
	backing := make(net.Buffers, 2)
	var b net.Buffers
	if n := testing.AllocsPerRun(100, func() {
		backing[0], backing[1] = p, p
		b = backing
		_, _ = c.WriteBuffers(&b)
	}); n > 0 {
		t.Errorf("WriteBuffers makes %v allocations", n)
	}
	if c.writing != 0 {
		t.Errorf("%d answers are under way", c.writing)
	}
}
