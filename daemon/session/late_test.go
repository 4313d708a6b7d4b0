package session

import (
	"testing"
	"testing/synctest"
)

// TestScaledBeforeShift has the target scaled while the process takes its time: by hand, or by night.
func TestScaledBeforeShift(t *testing.T) {
	for _, replicas := range []int32{5, 1, 0} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			p := l.process(0)
			p.cluster.fail["WaitAgentRunning"] = func() error {
				l.world.mu.Lock()
				defer l.world.mu.Unlock()
				l.world.replicas = replicas
				return nil
			}
			s, c := p.swap(t)
			<-c.active
			if l.world.replicas != 0 {
				t.Errorf("swapped, %d replicas are left", l.world.replicas)
			}
			s.Leave("test", true)
			<-c.over
			if l.world.replicas != replicas {
				t.Errorf("replicas %d, want the %d of before the shift", l.world.replicas, replicas)
			}
		})
	}
}

// TestLateRestoreLeavesAnotherSession wakes a dead session's laptop after a colleague has restored its target, and swapped it.
func TestLateRestoreLeavesAnotherSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		_, c := p.swap(t)
		<-c.active
		p.die()

		l.world.mu.Lock()
		l.world.marks["web"] = "bob234" // with 0 replicas, as the first had
		l.world.mu.Unlock()
		next := l.process(0)
		orphans, err := next.Replay(t.Context())
		if err != nil || len(orphans) != 1 {
			t.Fatal(orphans, err)
		}
		<-orphans[0].Done()
		if l.world.replicas != 0 || l.world.marks["web"] != "bob234" || len(l.world.agents) != 0 {
			t.Errorf("replicas %d, marks %v, agents %v; the second session's are 0, its own mark, and the first's agent gone", l.world.replicas, l.world.marks, l.world.agents)
		}
	})
}

// TestRestoreByMarkOfAnUndo finds what an undo has written that died before it took it off.
func TestRestoreByMarkOfAnUndo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.world.marks["web"], l.world.restoring = "abc234", true
		p := l.process(0)
		restoring, messages, err := p.Restore(t.Context(), RestoreRequest{Selector: "deployment/web"})
		if err != nil || len(restoring) != 1 || len(messages) != 0 {
			t.Fatalf("%v, %v, %v; want one session", restoring, messages, err)
		}
		<-restoring[0].Done()
		l.world.untouched(t)
	})
}
