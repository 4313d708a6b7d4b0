package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// points is how many points a whole swap has at which its process may die.
func points(t *testing.T) int {
	n := 0
	synctest.Test(t, func(t *testing.T) {
		p := newLab(t).process(0)
		s, c := p.swap(t)
		<-c.active
		s.Leave("test", true)
		<-c.over
		n = p.gate.seen
	})
	return n
}

// TestCrashAtEveryPoint kills the process before and after each write to the ledger and
// each effect on the cluster, forwards and backwards, and has the next one replay.
func TestCrashAtEveryPoint(t *testing.T) { crashAtEveryPoint(t, false) }

// TestLateEffect has the cluster do what it was asked for at the kill, but later.
func TestLateEffect(t *testing.T) { crashAtEveryPoint(t, true) }

func crashAtEveryPoint(t *testing.T, late bool) {
	n := points(t)
	if n < 20 {
		t.Fatalf("a swap has %d points only: the gate misses effects", n)
	}
	for at := 1; at <= n; at++ {
		t.Run(fmt.Sprintf("point %d", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				p := l.process(at)
				p.gate.late = late
				s, c := p.swap(t)
				select {
				case <-c.active:
					s.Leave("test", true)
				case <-p.gate.dead:
				}
				<-p.gate.dead
				p.end()

				next := l.process(0)
				orphans, err := next.Replay(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range orphans {
					<-o.Done()
					if out := o.Outcome(); !out.Restored || out.Err != nil {
						t.Errorf("orphan's outcome %+v, want restored", out)
					}
				}
				l.world.untouched(t)
				if left, err := next.cfg.Ledger.Records(); err != nil || len(left) != 0 {
					t.Errorf("ledger holds %v, %v; want nothing", left, err)
				}
			})
		})
	}
}

// TestCrashOfTheReplay kills the process that replays, too, at each of its points.
func TestCrashOfTheReplay(t *testing.T) {
	for at := 1; ; at++ {
		died := false
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			first := l.process(0)
			_, c := first.swap(t)
			<-c.active
			first.die() // while the swap is active

			second := l.process(at)
			orphans, err := second.Replay(t.Context())
			if err != nil || len(orphans) != 1 {
				t.Fatal(orphans, err)
			}
			select {
			case <-second.gate.dead:
				died = true
			case <-orphans[0].Done():
			}
			second.end()

			third := l.process(0)
			if _, err := third.Replay(t.Context()); err != nil {
				t.Fatal(err)
			}
			third.end()
			l.world.untouched(t)
		})
		if !died {
			if at < 8 {
				t.Fatalf("a replay has %d points only", at-1)
			}
			return
		}
	}
}

func TestEndings(t *testing.T) {
	cases := []struct {
		name  string
		end   func(p *proc, s *Session)
		holds bool // the agent must hold before the originals come
		stops bool // the owner is asked to end its child
		err   string
	}{
		{"child exits", func(_ *proc, s *Session) { s.ChildExited("status 3", nil) }, true, true, ""},
		{"owner leaves", func(_ *proc, s *Session) { s.Leave("Ctrl-C", true) }, false, true, ""},
		{"leave", func(_ *proc, s *Session) { s.Leave("teleswap leave", false) }, false, true, ""},
		{"owner dies", func(_ *proc, s *Session) { s.OwnerGone() }, true, true, ""},
		{"daemon quits", func(p *proc, _ *Session) { close(p.stop) }, false, true, ""},
		{"agent is lost", func(p *proc, _ *Session) {
			p.link.err = errors.New("pod was deleted")
			close(p.link.gone)
		}, false, true, "the agent is gone: pod was deleted"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				p := l.process(0)
				s, c := p.swap(t)
				<-c.active
				if l.world.replicas != 0 {
					t.Fatalf("active with %d replicas of the original", l.world.replicas)
				}
				tc.end(p, s)
				<-c.over
				l.world.untouched(t)
				history := strings.Join(l.world.log, ", ")
				if got := strings.Contains(history, "hold"); got != tc.holds {
					t.Errorf("held: %v, want %v; history %s", got, tc.holds, history)
				}
				want := "Unshift, WaitAvailable, hand over to 2, DeleteAgent, DeleteSecret, Unmark"
				if !strings.Contains(strings.ReplaceAll(history, "hold, ", ""), want) {
					t.Errorf("history %s\nwant in it %s", history, want)
				}
				if c.stopped != tc.stops {
					t.Errorf("owner asked to end its child: %v, want %v", c.stopped, tc.stops)
				}
				if got := errorText(c.outcome.Err); got != tc.err || !c.outcome.Restored {
					t.Errorf("outcome %+v, want restored and error %q", c.outcome, tc.err)
				}
			})
		})
	}
}

// TestForwardOrder keeps the order that loses no request: nothing is scaled down before
// the agent may be Ready, and that not before the process listens.
func TestForwardOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		p.box.listen() // nothing yet
		_, c := p.swap(t)
		synctest.Wait()
		history := strings.Join(l.world.log, ", ")
		if history != "Mark, CreateSecret, CreateAgent, attach" {
			t.Fatalf("before the process listens: %s", history)
		}
		p.box.listen(8080)
		<-c.active
		if got, want := strings.Join(l.world.log[4:], ", "), "ready, Shift"; got != want {
			t.Errorf("after the process listens: %s, want %s", got, want)
		}
	})
}

// TestDatagramPortsAreWaitedFor: TCP at the same number is another port, and a client's socket is no server's.
func TestDatagramPortsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		p.cluster.datagrams = []int32{53, 40000}
		p.box.listen(8080, 53)
		p.box.receive(5353, 50000)
		_, c := p.swap(t)
		time.Sleep(time.Minute)
		p.box.receive(5353, 50001)
		time.Sleep(time.Minute)
		synctest.Wait()
		got := c.waits()
		want := "waiting: nothing listens on ports 53/udp, 40000/udp yet; the process listens on 53, 8080, 5353/udp (does it read its port from the environment?)"
		if len(got) != 1 || got[0] != want {
			t.Errorf("messages %q, want once %q", got, want)
		}
		p.box.receive(53, 40000)
		<-c.active
		if got, want := strings.Join(l.world.log[4:], ", "), "ready, Shift"; got != want {
			t.Errorf("after the process listens: %s, want %s", got, want)
		}
	})
}

func TestPortThatIsNeverOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		p.box.listen(9090)
		s, c := p.swap(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		got := c.waits()
		want := "waiting: nothing listens on port 8080 yet; the process listens on 9090 (does it read its port from the environment? --expose 9090:8080 leads the target's port to it)"
		if len(got) != 1 || got[0] != want {
			t.Errorf("messages %q, want once %q", got, want)
		}
		p.box.listen(9090, 9091)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(c.waits()); n != 2 {
			t.Errorf("%d messages after the set changed, want 2", n)
		}
		s.Leave("Ctrl-C", true)
		<-c.over
		l.world.untouched(t)
	})
}

// TestFailureOfEachStep has the cluster refuse one method after the other.
func TestFailureOfEachStep(t *testing.T) {
	for _, method := range []string{"Resolve", "CheckAccess", "Mark", "CreateSecret", "CreateAgent", "WaitAgentRunning", "Shift"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				p := l.process(0)
				refused := errors.New(method + " was refused")
				p.cluster.fail[method] = func() error { return refused }
				_, c := p.swap(t)
				<-c.over
				l.world.untouched(t)
				if !errors.Is(c.outcome.Err, refused) || !c.outcome.Restored {
					t.Errorf("outcome %+v, want %v", c.outcome, refused)
				}
				before := method == "Resolve" || method == "CheckAccess"
				if c.outcome.Unchanged != before {
					t.Errorf("unchanged: %v, want %v", c.outcome.Unchanged, before)
				}
			})
		})
	}
}

func TestRestoreIsTriedUntilTheAPIServerIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		s, c := p.swap(t)
		<-c.active
		back := time.Now().Add(5 * time.Minute)
		p.cluster.fail["Unshift"] = func() error {
			if time.Now().Before(back) {
				return errors.New("connection refused")
			}
			return nil
		}
		s.Leave("Ctrl-C", true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.Status(); st.State != Stuck || !strings.Contains(st.Problem, "connection refused") {
			t.Errorf("after a minute: %s, %q; want stuck, and why", st.State, st.Problem)
		}
		<-c.over
		l.world.untouched(t)
		if c.outcome.Err != nil || !c.outcome.Restored {
			t.Errorf("outcome %+v, want restored", c.outcome)
		}
		if late := time.Since(back); late > maxRetry {
			t.Errorf("restored %s after the API server was back", late)
		}
	})
}

func TestQuitLeavesTheRestToTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		_, c := p.swap(t)
		<-c.active
		p.cluster.fail["Unshift"] = func() error { return errors.New("connection refused") }
		p.end()
		<-c.over
		if c.outcome.Restored {
			t.Error("restored without an API server")
		}
		next := l.process(0)
		orphans, err := next.Replay(t.Context())
		if err != nil || len(orphans) != 1 {
			t.Fatalf("replay: %d orphans, %v; want 1", len(orphans), err)
		}
		<-orphans[0].Done()
		l.world.untouched(t)
	})
}

// TestChildIsAskedToEndWhenCallersHaveGone has the agent wait for connections that the
// child keeps open: it must not be waited for until its grace is over.
func TestChildIsAskedToEndWhenCallersHaveGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		s, c := p.swap(t)
		<-c.active
		p.cluster.fail["DeleteAgent"] = func() error {
			close(p.link.quiet)
			<-s.childGone // its end closes the connections
			return nil
		}
		s.Leave("leave", false)
		<-c.over
		l.world.untouched(t)
		if !c.stopped {
			t.Error("the owner was not asked to end its child")
		}
	})
}

func TestScaledByHandMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		s, c := p.swap(t)
		<-c.active
		l.world.mu.Lock()
		l.world.replicas = 5
		l.world.mu.Unlock()
		s.Leave("test", true)
		<-c.over
		if l.world.replicas != 5 {
			t.Errorf("replicas %d, want the 5 that were set by hand", l.world.replicas)
		}
	})
}

func TestRestoreByMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.world.replicas = 0
		l.world.marks["web"] = "abc234"
		l.world.agents[kube.AgentName("web", "abc234")] = true
		l.world.secrets[kube.AgentName("web", "abc234")] = true
		p := l.process(0)

		restoring, messages, err := p.Restore(t.Context(), RestoreRequest{})
		if err != nil || len(restoring) != 0 {
			t.Fatalf("somebody else's session is restored unasked: %v, %v", restoring, err)
		}
		if len(messages) != 1 || !strings.Contains(messages[0].Text, "other@elsewhere") {
			t.Errorf("messages %v, want whose it is", messages)
		}
		restoring, _, err = p.Restore(t.Context(), RestoreRequest{Selector: "deployment/web"})
		if err != nil || len(restoring) != 1 {
			t.Fatalf("restore by name: %v, %v; want one session", restoring, err)
		}
		<-restoring[0].Done()
		l.world.untouched(t)
	})
}

func TestRestoreLeavesTheLivingAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		s, c := p.swap(t)
		<-c.active
		restoring, messages, err := p.Restore(t.Context(), RestoreRequest{Selector: "web"})
		if err != nil || len(restoring) != 0 || len(messages) != 1 {
			t.Errorf("restore of a living session: %v, %v, %v; want a message alone", restoring, messages, err)
		}
		if s.State() != Active {
			t.Errorf("the living session is %s", s.State())
		}
	})
}

func TestSwapAgainWhileRestoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		slow := make(chan struct{})
		p.cluster.fail["DeleteAgent"] = func() error { <-slow; return nil }
		s, c := p.swap(t)
		<-c.active
		s.Leave("test", true)
		synctest.Wait()
		_, again := p.swap(t)
		synctest.Wait()
		close(slow)
		<-c.over
		<-again.active
	})
}

func TestPrepareGoesToTheOwnerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLab(t).process(0)
		p.box.listen()
		s, c := p.swap(t)
		events, done := s.Watch(false)
		defer done()
		p.box.listen(8080)
		<-c.active
		s.Leave("test", true)
		for e := range events {
			switch e.(type) {
			case Prepare, StopChild:
				t.Errorf("a bystander was sent %T", e)
			}
		}
	})
}

func TestSelect(t *testing.T) {
	st := Status{ID: "k3f9qz", Target: "deployment/web:app"}
	for selector, want := range map[string]bool{
		"k3f9qz": true, "web": true, "web:app": true, "deployment/web": true, "deploy/web:app": true,
		"we": false, "web:other": false, "deployment/other": false, "app": false,
	} {
		if got := st.matches(selector); got != want {
			t.Errorf("%q matches: %v, want %v", selector, got, want)
		}
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		if len(id) != 6 || strings.Trim(id, idAlphabet) != "" {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
	if len(seen) < 990 {
		t.Errorf("%d different ids of 1000", len(seen))
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestScaleFirstOrder has the originals go before the agent comes, and come after it has gone.
func TestScaleFirstOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		p := l.process(0)
		s, events, err := p.Swap(t.Context(), Request{Ref: kube.Ref{Name: "web", ScaleFirst: true}})
		if err != nil {
			t.Fatal(err)
		}
		c := &collector{session: s, active: make(chan struct{}), over: make(chan struct{})}
		go c.collect(events)
		<-c.active
		s.Leave("teleswap leave", false)
		<-c.over
		l.world.untouched(t)
		history := strings.Join(l.world.log, ", ")
		for _, want := range []string{"Mark, Shift, WaitGone, CreateSecret, CreateAgent", "DeleteAgent, DeleteSecret, Unshift, WaitAvailable", "Unmark"} {
			if !strings.Contains(history, want) {
				t.Errorf("history %s\nwant in it %s", history, want)
			}
		}
	})
}

// TestScaleFirstQuota has a quota whose count lags behind the originals' end: the agent is tried again,
// for a while. Where the original stays beside it, there is nothing to wait for.
func TestScaleFirstQuota(t *testing.T) {
	for _, tc := range []struct {
		name       string
		scaleFirst bool
		refusals   int
		want       int // tries
		fails      bool
	}{
		{"room a moment later", true, 3, 4, false},
		{"no room", true, 1000, int(quotaPatience/quotaEvery) + 2, true},
		{"beside the original", false, 1, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				tries := 0
				p := l.process(0)
				p.cluster.fail = map[string]func() error{"WaitAgentRunning": func() error {
					if tries++; tries > tc.refusals {
						return nil
					}
					return &kube.PodStuckError{Message: "forbidden: exceeded quota: tight"}
				}}
				s, events, err := p.Swap(t.Context(), Request{Ref: kube.Ref{Name: "web", ScaleFirst: tc.scaleFirst}})
				if err != nil {
					t.Fatal(err)
				}
				c := &collector{session: s, active: make(chan struct{}), over: make(chan struct{})}
				go c.collect(events)
				select {
				case <-c.active:
					s.Leave("teleswap leave", false)
				case <-c.over:
				}
				<-c.over
				l.world.untouched(t)
				if err := s.Outcome().Err; tries != tc.want || (err != nil) != tc.fails || tc.fails && !kube.IsOverQuota(err) {
					t.Errorf("%d tries, ended with %v; want %d, an error %t", tries, err, tc.want, tc.fails)
				}
			})
		})
	}
}

// TestMarkedScaleFirst restores by the mark alone, in the order in which both never stand
// beside each other.
func TestMarkedScaleFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.world.replicas, l.world.marks["web"], l.world.agents["web-teleswap-k3f9qz"] = 0, "k3f9qz", true
		l.world.scaleFirst = true
		restoring, _, err := l.process(0).Restore(t.Context(), RestoreRequest{Selector: "web"})
		if err != nil || len(restoring) != 1 {
			t.Fatalf("restoring %d: %v", len(restoring), err)
		}
		<-restoring[0].Done()
		l.world.untouched(t)
		if history := strings.Join(l.world.log, ", "); !strings.Contains(history, "DeleteAgent, DeleteSecret, Unshift, WaitAvailable, Unmark") {
			t.Errorf("history %s", history)
		}
	})
}

// TestOldRecord is restored as it was written by versions that knew Deployments alone.
func TestOldRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.world.replicas, l.world.marks["web"], l.world.agents["web-teleswap-k3f9qz"] = 0, "k3f9qz", true
		book, err := ledger.Open(l.dir)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := book.Begin(ledger.Record{
			Session: "k3f9qz", Created: time.Now(), Target: "deployment/web:app", Namespace: "default", Connection: []byte(`{}`),
			Steps: []ledger.Step{
				{Name: "mark", Undo: []byte(`{"name":"web"}`)},
				{Name: "agent", Undo: []byte(`{"name":"web-teleswap-k3f9qz","target":"web","available":2,"port":15100}`)},
				{Name: "shift", Undo: []byte(`{"name":"web","replicas":2,"available":2}`)},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := entry.Release(); err != nil {
			t.Fatal(err)
		}
		sessions, err := l.process(0).Replay(t.Context())
		if err != nil || len(sessions) != 1 {
			t.Fatal(sessions, err)
		}
		<-sessions[0].Done()
		if out := sessions[0].Outcome(); !out.Restored || out.Err != nil {
			t.Errorf("outcome %+v", out)
		}
		l.world.untouched(t)
	})
}

func TestSameTarget(t *testing.T) {
	for _, tc := range []struct {
		selector, target string
		want             bool
	}{
		{"web", "statefulset/web:app", true},
		{"web:app", "statefulset/web:app", true},
		{"sts/web", "statefulset/web:app", true},
		{"deploy/web", "deployment/web:app", true},
		{"deployment/web", "statefulset/web:app", false},
		{"gizmo/web", "statefulset/web:app", false},
		{"wbe", "statefulset/web:app", false},
	} {
		if got := kube.MeansTarget(tc.selector, tc.target); got != tc.want {
			t.Errorf("kube.MeansTarget(%q, %q) = %v", tc.selector, tc.target, got)
		}
	}
}

// TestTargetThatIsJustGivenBack: the session that had it may be over by the time that it is waited for.
func TestTargetThatIsJustGivenBack(t *testing.T) {
	l := newLab(t)
	p := l.process(0)
	l.world.marks["web"] = "abc234"
	s := newSession("bcd345", p.cfg, Request{Ref: kube.Ref{Name: "web"}})
	asked := 0
	s.restored = func(string) <-chan struct{} {
		if asked++; asked > 1 {
			return nil // it is not known any more
		}
		l.world.mu.Lock()
		defer l.world.mu.Unlock()
		delete(l.world.marks, "web")
		over := make(chan struct{})
		close(over)
		return over
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if target, err := s.find(ctx, p.cluster); err != nil || target.Name != "web" {
		t.Errorf("got %v, %v", target, err)
	}
}
