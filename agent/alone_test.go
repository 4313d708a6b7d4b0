package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestAlone(t *testing.T) {
	ended := func(a *alone) bool {
		synctest.Wait()
		select {
		case <-a.tooLong():
			return true
		default:
			return false
		}
	}
	synctest.Test(t, func(t *testing.T) {
		a := newAlone(5 * time.Minute)
		time.Sleep(4 * time.Minute)
		a.note(true)
		time.Sleep(24 * time.Hour)
		a.note(false)
		time.Sleep(5*time.Minute - time.Second)
		a.note(true) // back in time
		time.Sleep(time.Hour)
		if ended(a) || a.deserted() {
			t.Error("ended while a laptop was there")
		}
		a.note(false)
		if !a.deserted() {
			t.Error("not deserted without a laptop")
		}
		time.Sleep(5*time.Minute - time.Second)
		if ended(a) {
			t.Error("ended too early")
		}
		time.Sleep(2 * time.Second)
		if !ended(a) {
			t.Error("still there after 5 minutes alone")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAlone(time.Minute)
		time.Sleep(time.Hour)
		if !ended(a) {
			t.Error("waits for ever for its first laptop")
		}
	})
	if a := newAlone(0); a.tooLong() != nil || a.deserted() {
		t.Error("an agent in somebody's place counts as alone")
	}
}

// TestAgentEndsAlone: by itself and without an error, which is what makes a Job complete.
func TestAgentEndsAlone(t *testing.T) {
	p := startPod(t, func(c *Config) { c.Listen, c.AloneFor = nil, 100*time.Millisecond })
	p.wantEnd(t, 20*time.Second, "it does not end")
}

// TestAgentInNobodysPlaceServesUntilTheLaptopGoes: its pod's end is no end of what the laptop has open.
func TestAgentInNobodysPlaceServesUntilTheLaptopGoes(t *testing.T) {
	p := startPod(t, func(c *Config) { c.Listen, c.AloneFor = nil, time.Hour })
	c := p.connect(t)
	p.stop()
	for e := range c.Events() {
		if _, ends := e.(tunnel.PodShutdown); ends {
			break
		}
	}
	time.Sleep(2 * quiet) // by then an agent in somebody's place is gone
	if _, err := c.PodView(t.Context()); err != nil {
		t.Errorf("it serves no more: %v", err)
	}
	begun := time.Now()
	_ = c.Close()
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("ended: %v", err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %s to go when the laptop had gone", took)
		}
		p.done <- nil
	case <-time.After(8 * time.Second):
		t.Error("it stays although nobody is there")
	}
}
