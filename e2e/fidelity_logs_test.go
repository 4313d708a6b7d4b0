package e2e

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// podLog is what kubectl logs shows of the agent's pod.
func podLog(w *scene.World) string {
	w.T.Helper()
	pods := w.Pods(scene.SessionLabel)
	if len(pods) != 1 {
		w.T.Fatalf("%d agent pods, want 1", len(pods))
	}
	stream, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).GetLogs(pods[0].Name, &corev1.PodLogOptions{Container: "app"}).Stream(w.T.Context())
	if err != nil {
		w.T.Fatalf("read the pod's log: %v", err)
	}
	defer func() { _ = stream.Close() }()
	text, err := io.ReadAll(stream)
	if err != nil {
		w.T.Fatalf("read the pod's log: %v", err)
	}
	return string(text)
}

// waitPodLog waits until the pod's log has a line.
func waitPodLog(w *scene.World, line string) {
	w.T.Helper()
	w.Eventually(line+" in the pod's log", func() string {
		if text := podLog(w); !strings.Contains("\n"+text, "\n"+line+"\n") {
			return "the log: " + text
		}
		return ""
	})
}

// TestFidelityLogs has what the process writes in kubectl logs too, to the last word, and in no log of ours.
func TestFidelityLogs(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(webScene)
		c := w.NewClient()
		w.WaitAvailable()
		w.Freeze()
		script := `echo first word; echo to stderr >&2; "$@"; seq -f 'line %.0f' 20000; printf 'last wörd'; exit 3`
		run := w.Teleswap(append([]string{"swap", "web", "--", "/bin/sh", "-c", script, "sh"}, probe(w)...)...)
		run.WaitSwapped()
		far := c.Far("http://web")
		far.WaitLocal("local")
		waitPodLog(w, "first word")
		waitPodLog(w, "to stderr")
		c.Body("http://web/print?text=in+between")
		waitPodLog(w, "in between")
		far.Exit(0)
		run.WaitEnd(3)
		out := run.Stdout()
		if !strings.HasPrefix(out, "first word\n") || !strings.HasSuffix(out, "line 19999\nline 20000\nlast wörd") {
			t.Errorf("standard output begins %.30q and ends %q", out, out[max(0, len(out)-30):])
		}
		w.WaitUnchanged()
		// A line without an end comes last: the node's container runtime waits for it.
		if kept := w.AgentLogs(); !strings.Contains(kept, "line 1\nline 2\n") || !strings.Contains(kept, "line 19999\nline 20000\n") || !strings.Contains(kept, "\nlast wörd") {
			t.Errorf("the pod's log ends with %q", kept[max(0, len(kept)-300):])
		}
		for _, text := range []string{"first word", "to stderr", "line 20000"} {
			if strings.Contains(w.DaemonLog(), text) {
				t.Errorf("the daemon's log has %q", text)
			}
		}
	})
}

// TestFidelityLogsKeptHome keeps them home.
func TestFidelityLogsKeptHome(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(webScene)
		c := w.NewClient()
		w.WaitAvailable()
		w.Freeze()
		run := w.Teleswap(append([]string{"swap", "web", "--no-pod-logs", "--", "/bin/sh", "-c", `echo a word; exec "$@"`, "sh"}, probe(w)...)...)
		run.WaitSwapped()
		far := c.Far("http://web")
		far.WaitLocal("local")
		far.Exit(0)
		run.WaitEnd(0)
		w.WaitUnchanged()
		contains(t, "standard output", run.Stdout(), "a word\n")
		if kept := w.AgentLogs(); kept == "" || strings.Contains(kept, "a word") {
			t.Errorf("the pod's log is %q", kept)
		}
	})
}

// TestFidelityLogsSlowWay stops the agent while the process writes 10 MiB: the process does not wait, whoever reads its output
// lacks nothing, and the pod's log says how much it lacks.
func TestFidelityLogsSlowWay(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(webScene)
		c := w.NewClient()
		w.WaitAvailable()
		w.Freeze()
		const lines = 160_000
		filler := strings.Repeat("x", 55)
		gate := filepath.Join(w.Home, "gate")
		script := `gate=$1; shift; "$@" & while [ ! -e "$gate" ]; do sleep 0.05; done; seq -f 'line %06.0f ` + filler + `' ` + strconv.Itoa(lines) + `; : >"$gate.done"; wait`
		run := w.Teleswap(append([]string{"swap", "web", "--", "/bin/sh", "-c", script, "sh", gate}, probe(w)...)...)
		run.WaitSwapped()
		far := c.Far("http://web")
		far.WaitLocal("local")
		waitPodLog(w, "listening on [::]:8080")
		agent := w.PodProcess(w.Pods(scene.SessionLabel)[0].Name, "teleswap-agent")
		if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(agent, syscall.SIGCONT) }()
		w.File("gate", "")
		w.Eventually("all to be written", func() string {
			if _, err := os.Stat(gate + ".done"); err != nil {
				return err.Error()
			}
			return ""
		})
		if !w.Stopped(agent) {
			t.Fatal("the agent is not stopped: the test proves nothing")
		}
		if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		far.WaitLocal("local") // the pod was not Ready while its agent was stopped
		c.Body("http://web/print?text=afterwards")
		waitPodLog(w, "afterwards")
		checkGap(t, podLog(w), filler, lines)
		far.Exit(0)
		run.WaitEnd(0)
		written := regexp.MustCompile(`(?m)^line \d{6} `+filler+`$`).FindAllString(run.Stdout(), -1)
		if len(written) != lines || !slices.IsSorted(written) || len(run.Stdout()) < 10_000_000 {
			t.Errorf("standard output has %d lines in %d bytes, want %d, in order", len(written), len(run.Stdout()), lines)
		}
	})
}

// checkGap wants each line to be in the log, or counted among those that are missing.
func checkGap(t *testing.T, log, filler string, lines int) {
	t.Helper()
	kept := len(regexp.MustCompile(`(?m)^line \d{6} `+filler+`$`).FindAllString(log, -1))
	missing := 0
	for _, gap := range regexp.MustCompile(`(?m)^teleswap: (\d+) lines? missing here: the way to the pod was too slow$`).FindAllStringSubmatch(log, -1) {
		n, err := strconv.Atoi(gap[1])
		if err != nil {
			t.Fatal(err)
		}
		missing += n
	}
	t.Logf("the pod's log has %d lines, and says that %d are missing", kept, missing)
	if kept == 0 || missing == 0 || kept+missing != lines {
		t.Errorf("the pod's log has %d lines and says that %d are missing, want %d together", kept, missing, lines)
	}
}

// atShell starts a swap of the worker scene from an interactive shell on a terminal, as people do. The process reads lines and
// answers them.
func atShell(t *testing.T, w *scene.World) (*terminal, *scene.Run) {
	t.Helper()
	w.Apply(noPortScene)
	w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	tty := newTerminal(t, w)
	resize(t, tty, 31, 91)
	script := w.File("child.sh", `test -t 0 && test -t 1 && test -t 2 && echo three terminals
trap 'echo interrupted; exit 9' INT
while read -r line; do
  case $line in
  size) stty size ;;
  *) echo "got $line" ;;
  esac
done
echo end of input`)
	run := w.Start(scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm", "PS1=$ "}}, "/bin/bash", "--norc", "-i")
	_ = tty.slave.Close() // the shell has its own
	tty.enter(t, w.Lab.Bin.Teleswap+" swap worker -- /bin/sh "+script+"; echo status=$?\n")
	tty.waitFor(w, "swapped: deployment/")
	tty.waitFor(w, "three terminals")
	return tty, run
}

func resize(t *testing.T, tty *terminal, rows, columns uint16) {
	t.Helper()
	conn, err := tty.master.SyscallConn()
	if err == nil {
		control := conn.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
		})
		if err == nil {
			err = control
		}
	}
	if err != nil {
		t.Fatalf("resize the terminal: %v", err)
	}
}

// TestFidelityLogsTerminal has the process on a terminal that is as its user's, and its output in the pod's log.
func TestFidelityLogsTerminal(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		tty, run := atShell(t, w)
		tty.enter(t, "size\n")
		tty.waitFor(w, "31 91\r\n")
		resize(t, tty, 50, 120)
		w.Eventually("the new size", func() string {
			tty.enter(t, "size\n")
			if shown := tty.text(); !strings.Contains(shown, "50 120\r\n") {
				return "shown: " + shown
			}
			return ""
		})
		// Ctrl-Z: the shell has its terminal back, the process and the command are stopped; and go on together.
		tty.enter(t, "before\n")
		tty.waitFor(w, "got before\r\n")
		tty.enter(t, "\x1a")
		tty.waitFor(w, "Stopped")
		tty.enter(t, "echo back at the $((40+2)) shell\n")
		tty.waitFor(w, "back at the 42 shell")
		tty.enter(t, "fg\n")
		tty.enter(t, "after\n")
		tty.waitFor(w, "got after\r\n")
		waitPodLog(w, "got after")
		waitPodLog(w, "three terminals")
		tty.enter(t, "\x03")
		tty.waitFor(w, "restored:")
		tty.enter(t, "echo ended with $?\n")
		tty.waitFor(w, "ended with 9\r\n")
		if n := strings.Count(tty.text(), "interrupted"); n != 1 {
			t.Errorf("the process got SIGINT %d times, want once", n)
		}
		// Lines begin at the left: whatever was raw meanwhile.
		if found := regexp.MustCompile(`[^\r]\n`).FindString(tty.text()); found != "" {
			t.Errorf("the terminal shows a newline without a carriage return: %q in\n%q", found, tty.text())
		}
		tty.enter(t, "stty -a | tr -s ' \\n' ';'; exit 4\n")
		for _, setting := range []string{";isig;", ";icanon;", ";echo;", ";opost;"} {
			tty.waitFor(w, setting)
		}
		run.WaitEnd(4)
	})
}

// TestFidelityLogsTerminalEOF ends the input by Ctrl-D.
func TestFidelityLogsTerminalEOF(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		tty, run := atShell(t, w)
		tty.enter(t, "\x04")
		tty.waitFor(w, "end of input\r\n")
		tty.waitFor(w, "status=0")
		tty.enter(t, "exit 0\n")
		run.WaitEnd(0)
	})
}
