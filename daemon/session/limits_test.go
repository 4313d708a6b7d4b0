package session

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/teleswap/teleswap/daemon/kube"
)

// TestLimitsAreSaid has a swap say, each in one line, what the process will not have.
func TestLimitsAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLab(t).process(0)
		s, c := p.swap(t)
		<-c.active
		s.Leave("test", true)
		<-c.over
		p.end()
		limits := (&kube.Target{}).Limits(0)
		if len(limits) == 0 {
			t.Fatal("no target is without limits")
		}
		for _, limit := range limits {
			if n := len(slices.DeleteFunc(slices.Clone(c.messages), func(m string) bool { return m != limit })); n != 1 {
				t.Errorf("%q is said %d times, want once; all: %q", limit, n, c.messages)
			}
		}
	})
}
