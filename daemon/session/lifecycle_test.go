package session

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// stops are the StopChild events of a session, collected until its end.
func stops(events <-chan Event) <-chan []StopChild {
	out := make(chan []StopChild, 1)
	go func() {
		var all []StopChild
		for e := range events {
			if st, ok := e.(StopChild); ok {
				all = append(all, st)
			}
		}
		out <- all
	}()
	return out
}

// TestPodEndsStopsChild has the pod told to end: the process is told at once, with the pod's grace, and the session restores.
func TestPodEndsStopsChild(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		grace time.Duration
	}{
		"deleted or drained": {&PodEndsError{Pod: "web-pod"}, 30 * time.Second},
		"lost":               {errors.New("pod web-pod was replaced"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				p := l.process(0)
				s, owner := p.swap(t)
				<-owner.active
				events, _ := s.Watch(true)
				got := stops(events)
				p.link.err = c.err
				close(p.link.gone)
				<-owner.over
				first := (<-got)[0]
				if first.Grace != c.grace {
					t.Errorf("the process has %s, want %s", first.Grace, c.grace)
				}
				if out := s.Outcome(); !out.Restored || out.Err == nil || !strings.Contains(out.Err.Error(), c.err.Error()) {
					t.Errorf("outcome %+v", out)
				}
				l.world.untouched(t)
			})
		})
	}
}

// TestOwnRestoreIsNoPodEnd: we delete the agent's pod when we restore, and the process serves on while it drains.
func TestOwnRestoreIsNoPodEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLab(t).process(0)
		s, owner := p.swap(t)
		<-owner.active
		events, _ := s.Watch(true)
		got := stops(events)
		p.link.err = &PodEndsError{Pod: "web-pod"}
		s.Leave("test", true)
		close(p.link.gone)
		<-owner.over
		for _, st := range <-got {
			if st.Grace != 0 {
				t.Errorf("the process was told %+v", st)
			}
		}
		if out := s.Outcome(); out.Err != nil {
			t.Errorf("outcome %+v", out)
		}
	})
}

func TestLinkTellsThatThePodEnds(t *testing.T) {
	a := newAgentLab(t)
	l, _ := a.dial()
	a.agent.Announce(tunnel.PodShutdown{Grace: time.Second})
	<-l.Gone()
	var podEnds *PodEndsError
	if err := l.Err(); !errors.As(err, &podEnds) || podEnds.Pod != "agent-pod" {
		t.Errorf("lost: %v", err)
	}
}

func TestPrepareHasHooks(t *testing.T) {
	sw := &swap{target: &kube.Target{}, view: &tunnel.PodView{PodIps: []string{"10.0.0.1"}}}
	if h := sw.hooks(); h.PostStart != nil || h.PreStop != nil {
		t.Errorf("hooks of a target without any: %+v", h)
	}
}
