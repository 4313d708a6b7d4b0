package runner

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestHooks runs them beside the command, in its network and with its environment.
func TestHooks(t *testing.T) {
	l := newLab(t, nil)
	r := l.start(l.spec("serve", "127.0.0.1:8080"))
	if got := r.line(); got != "listening" {
		t.Fatal(got)
	}
	file := filepath.Join(t.TempDir(), "hooked")
	for _, c := range []struct {
		name, fails string
		hook        Hook
	}{
		{"command", "", Hook{Argv: []string{"sh", "-c", `echo "$GREETING $(hostname)" > "$0"`, file}}},
		{"status", "ended with status 3", Hook{Argv: []string{"sh", "-c", "exit 3"}}},
		{"signal", "signal 9", Hook{Argv: []string{"sh", "-c", "kill -9 $$"}}},
		{"no such command", "not found", Hook{Argv: []string{"no-such-command"}}},
		{"nobody listens", "refused", Hook{URL: "http://127.0.0.1:8081/"}},
		// So it came to the command, in its network; its greeting may come before the request has gone.
		{"no HTTP", "malformed|readLoopPeekFail", Hook{URL: "http://127.0.0.1:8080/"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := r.RunHook(c.hook)
			if c.fails == "" && err != nil {
				t.Error(err)
			}
			if c.fails != "" && (err == nil || !regexp.MustCompile(c.fails).MatchString(err.Error())) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "Yo service-a-0\n" {
		t.Errorf("the hook wrote %q, %v", got, err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- r.RunHook(Hook{Argv: []string{"sleep", "1000"}}) }()
	_ = r.stdin.Close()
	if err := <-waiting; err == nil {
		t.Error("a hook outlived its command")
	} else if !errors.Is(err, os.ErrProcessDone) && !strings.Contains(err.Error(), "signal 15") {
		t.Errorf("got %v", err)
	}
}
