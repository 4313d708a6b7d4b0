package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestNobodyWaitsAtAClosedDoor: who came in before the door was closed, and was not begun, is turned away, and so is who comes later.
func TestNobodyWaitsAtAClosedDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(Config{Now: time.Now})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		answer := make(chan error, 1)
		enter := func(id string) {
			answer <- m.enter(ctx, newSession(id, m.cfg, Request{}), func(context.Context) { t.Errorf("%s was begun", id) })
		}
		check := func(id string) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-answer:
				if !errors.Is(err, ErrClosing) {
					t.Errorf("%s: got %v, want ErrClosing", id, err)
				}
			default:
				t.Fatalf("%s waits for a loop that has gone", id)
			}
		}
		go enter("before")
		synctest.Wait()
		if m.Get("before") == nil {
			t.Fatal("it is not among the sessions while it waits")
		}
		m.closeDoor()
		check("before")
		go enter("after")
		check("after")
		if n := m.Count(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}
