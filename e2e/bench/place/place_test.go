package place_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/e2e/bench/place"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		name  string
		place place.Place
		want  string
	}{
		{"here", place.Place{}, "kubectl get po"},
		{"namespace", place.Place{NetNS: "/run/netns/x"}, "nsenter --net=/run/netns/x -- kubectl get po"},
		{
			"both",
			place.Place{NetNS: "/n", User: &place.User{UID: 7, GID: 8}},
			"nsenter --net=/n -- setpriv --reuid=7 --regid=8 --clear-groups -- kubectl get po",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := strings.Join(tc.place.Command("kubectl", "get", "po").Args, " "); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func start(t *testing.T, script string) *place.Process {
	t.Helper()
	p, err := place.Start(place.Place{}.Command("sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStop(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		patience     time.Duration
		killed       bool
	}{
		{"ends with its stdin", "cat >/dev/null", 10 * time.Second, false},
		{"has ended", "exit 3", 10 * time.Second, false},
		{"writes without end until stdin ends", "yes & read x; kill $!", 10 * time.Second, false},
		{"ends by SIGTERM", "exec sleep 600", 50 * time.Millisecond, false},
		{"ends by SIGKILL", "trap '' TERM; echo trapped >&2; while :; do sleep 0.05; done", 200 * time.Millisecond, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, tc.script)
			if tc.killed {
				if _, err := p.Stderr().Await(t.Context(), func(s string) bool { return s == "trapped" }); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Stop(tc.patience); (err != nil) != tc.killed {
				t.Errorf("got error %v, want one: %v", err, tc.killed)
			}
			select {
			case <-p.Exited():
			default:
				t.Error("it has not ended")
			}
		})
	}
}

func TestWaitTellsStderr(t *testing.T) {
	p := start(t, "echo one >&2; echo no such thing >&2; exit 4")
	err := p.Wait(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("got error %v", err)
	}
	if err := p.Stop(0); err != nil {
		t.Error(err)
	}
}

func TestOutput(t *testing.T) {
	got, err := place.Output(t.Context(), place.Place{Env: []string{"WHO=you"}}.Command("sh", "-c", "cat; echo $WHO"), "hello ")
	if err != nil || string(got) != "hello you\n" {
		t.Errorf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err = place.Output(ctx, place.Place{}.Command("sleep", "600"), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want that of the context", err)
	}
}

func TestLines(t *testing.T) {
	lines := place.NewLines()
	write := func(s string) {
		if _, err := io.WriteString(lines, s); err != nil {
			t.Error(err)
		}
	}
	write("one\ntw")
	found := make(chan place.Line)
	go func() {
		line, err := lines.Await(t.Context(), func(s string) bool { return strings.HasPrefix(s, "tw") })
		if err != nil {
			t.Error(err)
		}
		found <- line
	}()
	write("o\r\nthree")
	if line := <-found; line.Text != "two" || line.At.IsZero() {
		t.Errorf("got %+v, want two", line)
	}
	lines.Close()
	if got := lines.Tail(2); got != "two | three" {
		t.Errorf("tail is %q", got)
	}
	if _, err := lines.Await(t.Context(), func(string) bool { return false }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v, want that of an end", err)
	}
}
