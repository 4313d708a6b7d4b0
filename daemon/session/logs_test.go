package session

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// written is what an agent was given for its pod's log.
type written struct {
	mu       sync.Mutex
	out, err strings.Builder
}

func (w *written) log(stderr bool, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stderr {
		w.err.Write(p)
	} else {
		w.out.Write(p)
	}
	return nil
}

// TestLinkLogs brings output to the agent, also over the tunnel that comes after one that broke.
func TestLinkLogs(t *testing.T) {
	var w written
	a := newAgentLab(t, func(c *tunnel.ServerConfig) { c.Log = w.log })
	l, warned := a.dial()
	log := func(stderr bool, text string) {
		t.Helper()
		if err := l.Logs(t.Context(), stderr, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	log(false, "one\n")
	log(true, "two\n")
	if err := l.EndLogs(); err != nil {
		t.Fatal(err)
	}
	a.cut()
	<-warned
	log(false, "three\n")
	if err := errors.Join(l.EndLogs(), l.EndLogs()); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out.String() != "one\nthree\n" || w.err.String() != "two\n" {
		t.Errorf("standard output %q, error %q", w.out.String(), w.err.String())
	}
}

// TestLinkLogsOfAnOldAgent ends with an error, not with tries for ever.
func TestLinkLogsOfAnOldAgent(t *testing.T) {
	a := newAgentLab(t)
	l, _ := a.dial()
	err := l.Logs(t.Context(), false, []byte("x"))
	if err == nil { // the first word may be under way when the refusal comes
		err = l.EndLogs()
	}
	if err == nil || !strings.Contains(err.Error(), "writes no logs") {
		t.Errorf("got %v", err)
	}
}

func TestSessionWithoutLinkTakesNoLogs(t *testing.T) {
	s := &Session{}
	if err := errors.Join(s.Log(t.Context(), false, nil), s.EndLogs()); !errors.Is(err, errNoLink) {
		t.Errorf("got %v, want %v", err, errNoLink)
	}
}
