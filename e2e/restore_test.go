package e2e

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

const (
	sigint  = syscall.SIGINT
	sigterm = syscall.SIGTERM
	sighup  = syscall.SIGHUP
	sigkill = syscall.SIGKILL
)

// TestRestoreLosesNoRequest ends a swap in every way that leaves someone to end it well, under
// a load of 50 requests a second that runs from before the swap until after the
// restore. The process is one that loses nothing itself: net/http's Shutdown, called at once, drops
// requests that have arrived and are not yet read.
func TestRestoreLosesNoRequest(t *testing.T) {
	parallel(t)
	for _, tc := range []struct {
		name   string
		end    func(*scene.World, *scene.Run, scene.Far)
		status int
	}{
		{"child exits", func(_ *scene.World, _ *scene.Run, far scene.Far) { far.Exit(7) }, 7},
		{"ctrl-c", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.SignalGroup(sigint) }, 128 + int(sigint)},
		{"sigint to the command alone", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sigint) }, 128 + int(sigint)},
		{"sigterm", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sigterm) }, 128 + int(sigterm)},
		// The process is told by SIGTERM: a hang-up reaches it by its own terminal, if there is one.
		{"sighup", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sighup) }, 128 + int(sigterm)},
		{"leave", func(w *scene.World, _ *scene.Run, _ scene.Far) { w.Output("leave", "web") }, 128 + int(sigterm)},
		{"quit", func(w *scene.World, _ *scene.Run, _ scene.Far) { w.Output("quit") }, 128 + int(sigterm)},
		{"daemon told to end", func(w *scene.World, _ *scene.Run, _ scene.Far) { w.Terminate(w.DaemonPID()) }, 128 + int(sigterm)},
		{"sigkill", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sigkill) }, -int(sigkill)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := webWorld(t)
			template := w.RawTemplate("web")
			load := c.StartLoad("http://web/api")
			load.WaitOriginal(50)
			run, far := swapWeb(w, c, "-drain")
			load.WaitSwapped(100)
			tc.end(w, run, far)
			run.WaitEnd(tc.status)
			w.WaitUnchanged()
			load.WaitOriginal(100)
			load.Stop().NoneFailed(t)
			if after := w.RawTemplate("web"); after != template {
				t.Errorf("pod template before:\n%s\nafter:\n%s", template, after)
			}
			// One signal is one signal: the terminal's must not be doubled by the command.
			if n := strings.Count(run.Stdout(), "signal interrupt"); tc.status == 128+int(sigint) && n != 1 {
				t.Errorf("the process got SIGINT %d times, want once", n)
			}
		})
	}
}

// TestRestoreEndsStubbornProcess has a process that ignores SIGINT and SIGTERM, with
// a child of its own in another session.
func TestRestoreEndsStubbornProcess(t *testing.T) {
	w, c := webWorld(t)
	run, _ := swapWeb(w, c, "-ignore", "INT,TERM", "-spawn")
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigkill))
	if out := run.Stdout(); !strings.Contains(out, "signal interrupt") || !strings.Contains(out, "signal terminated") {
		t.Errorf("the process was told %q, want SIGINT, then SIGTERM, before SIGKILL", out)
	}
	w.WaitUnchanged()
}

// TestRestoreEndsWholeTree kills only the command: what the process started must go, too.
func TestRestoreEndsWholeTree(t *testing.T) {
	w, c := webWorld(t)
	run, _ := swapWeb(w, c, "-spawn")
	spawned := func() int {
		n := 0
		for _, p := range w.Processes() {
			if len(p.Args) > 1 && p.Args[1] == "-sleep" {
				n++
			}
		}
		return n
	}
	if spawned() != 1 {
		t.Fatalf("the process has %d children, want 1: the test is wrong", spawned())
	}
	run.Signal(sigkill)
	w.Eventually("the process's child to be ended", func() string {
		if spawned() > 0 {
			return "it runs"
		}
		return ""
	})
	w.WaitUnchanged()
}

// TestRestoreAfterDaemonKilled kills the daemon alone: the command notices, ends the process and has a new
// daemon restore.
func TestRestoreAfterDaemonKilled(t *testing.T) {
	w, c := webWorld(t)
	run, _ := swapWeb(w, c)
	w.Kill(w.DaemonPID())
	if status := run.Wait(); status == 0 {
		t.Errorf("exit status 0 after the daemon was killed; stderr:\n%s", run.Stderr())
	}
	w.WaitUnchanged()
}

// TestRestoreAfterBothKilled kills command and daemon in the midst of a swap; who restores then is the
// next start of a daemon, or the user.
func TestRestoreAfterBothKilled(t *testing.T) {
	parallel(t)
	for _, tc := range []struct {
		name    string
		restore func(*scene.World)
	}{
		{"next start of the daemon", func(w *scene.World) { w.Output("status") }},
		{"teleswap restore", func(w *scene.World) { w.Output("restore") }},
		{"teleswap restore TARGET", func(w *scene.World) { w.Output("restore", "web") }},
		{"next swap of the same target", func(w *scene.World) {
			run := w.Teleswap("swap", "web", "--", w.Lab.Bin.Probe, "-listen", ":8080", "-exit-on-int", "0")
			run.WaitSwapped()
			run.SignalGroup(sigint)
			run.WaitEnd(0)
		}},
		{"teleswap restore on another machine", func(w *scene.World) {
			// Another machine has no ledger and no socket of ours; it sees the mark.
			elsewhere := filepath.Join(w.Home, "elsewhere")
			env := []string{"XDG_STATE_HOME=" + elsewhere, "XDG_RUNTIME_DIR=" + elsewhere, "HOME=" + elsewhere}
			w.File("elsewhere/.keep", "")
			r := w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "restore", "web")
			r.WaitEnd(0)
			w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "quit").Wait() // there may be none
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := webWorld(t)
			run, _ := swapWeb(w, c)
			killBoth(w, run)
			tc.restore(w)
			w.WaitUnchanged()
		})
	}
}

// killBoth kills daemon and command so that neither can act on the other's death, and waits
// until the process on the laptop has followed them.
func killBoth(w *scene.World, run *scene.Run) {
	w.T.Helper()
	run.Signal(syscall.SIGSTOP)
	w.Kill(w.DaemonPID())
	run.Signal(sigkill)
	run.Wait()
	w.Eventually("all processes to be gone", func() string {
		if left := w.Processes(); len(left) > 0 {
			return left[0].String()
		}
		return ""
	})
}

// TestRestoreFromEveryStep ends a swap as soon as a step's line appears, so in the midst of the
// next step, once for each step.
func TestRestoreFromEveryStep(t *testing.T) {
	parallel(t)
	for _, tc := range []struct {
		name string
		end  func(*scene.World, *scene.Run)
	}{
		{"ctrl-c", func(_ *scene.World, run *scene.Run) {
			run.SignalGroup(sigint)
			run.WaitEnd(128 + int(sigint))
			contains(run.T(), "standard error", run.Stderr(), "restored:")
		}},
		{"command killed", func(_ *scene.World, run *scene.Run) {
			run.Signal(sigkill)
			run.Wait()
		}},
		{"command and daemon killed", func(w *scene.World, run *scene.Run) {
			killBoth(w, run)
			w.Output("restore")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, _ := webWorld(t)
			for _, step := range []string{"resolve", "mark", "agent", "dial", "start", "ready", "shift"} {
				run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w)...)...)
				run.WaitStderr(`^✓ +` + step + `\b`)
				tc.end(w, run)
				w.WaitUnchanged()
			}
		})
	}
}
