package session

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/teleswap/teleswap/daemon/kube"
)

// swapNew is swap of what is made for it.
func (p *proc) swapNew(t *testing.T) (*Session, *collector) {
	t.Helper()
	s, events, err := p.Swap(t.Context(), Request{Ref: kube.Ref{Name: "hello", New: true}})
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{session: s, active: make(chan struct{}), over: make(chan struct{})}
	go c.collect(events)
	return s, c
}

// TestNewComesAndGoes has no original: nothing is shifted, nobody is waited for, and nobody's connections are held.
func TestNewComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		s, c := p.swapNew(t)
		<-c.active
		s.ChildExited("status 0", nil)
		<-c.over
		l.world.untouched(t)
		if got, want := strings.Join(l.world.log, ", "), "CreateNew, attach, ready, retire, DeleteNew, close link"; got != want {
			t.Errorf("history %s\nwant    %s", got, want)
		}
	})
}

// TestNewCrashAtEveryPoint is TestCrashAtEveryPoint for what is new.
func TestNewCrashAtEveryPoint(t *testing.T) {
	for at := 1; ; at++ {
		died := false
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			p := l.process(at)
			s, c := p.swapNew(t)
			select {
			case <-c.active:
				s.Leave("test", true)
			case <-p.gate.dead:
			}
			select {
			case <-c.over:
			case <-p.gate.dead:
			}
			select { // it may be both: the first effect's failure ends a session, too
			case <-p.gate.dead:
				died = true
			default:
			}
			p.end()
			orphans, err := l.process(0).Replay(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range orphans {
				<-o.Done()
			}
			l.world.untouched(t)
		})
		if !died {
			if at < 10 {
				t.Errorf("what is new has %d points only: the gate misses effects", at-1)
			}
			return
		}
		if t.Failed() {
			t.Fatal(fmt.Sprint("killed at point ", at))
		}
	}
}

// TestNewRestoredByMark finds what another laptop has left.
func TestNewRestoredByMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.world.marks["hello"], l.world.agents["hello-teleswap-k3f9qz"], l.world.isNew = "k3f9qz", true, true
		restoring, _, err := l.process(0).Restore(t.Context(), RestoreRequest{Selector: "hello"})
		if err != nil || len(restoring) != 1 {
			t.Fatalf("restoring %d: %v", len(restoring), err)
		}
		<-restoring[0].Done()
		l.world.untouched(t)
		if history := strings.Join(l.world.log, ", "); history != "DeleteNew" {
			t.Errorf("history %s", history)
		}
	})
}
