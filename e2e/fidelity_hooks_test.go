package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// hooksPart has hooks that are commands: the probe itself, by its name alone. It writes where a sidecar sees it.
func hooksPart() part {
	return part{
		app: `
env: [{name: PATH, value: /}]
volumeMounts: [{name: shared, mountPath: /shared}]
lifecycle:
  postStart: {exec: {command: [probe, -write, /shared/post-start=it has started]}}
  preStop: {exec: {command: [probe, -write, /shared/pre-stop=it will stop]}}`,
		pod: `volumes: [{name: shared, emptyDir: {}}]`,
		containers: `
- name: sidecar
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -name, sidecar]
  volumeMounts: [{name: shared, mountPath: /other/place}]
  securityContext: RESTRICTED`,
	}
}

// TestFidelityLifecycleExecHooks runs commands as hooks: they are found on the laptop, and see what the process sees.
func TestFidelityLifecycleExecHooks(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, hooksPart())
		started := r.original.File("/shared/post-start")
		// The process reads what preStop wrote when it is told to end: so it had ended before.
		script := `trap 'cat /shared/pre-stop; exit 7' TERM; "$@" & while :; do wait; done`
		r.run = w.Teleswap(append([]string{"swap", "app:app", "--lifecycle-hooks", "--", "/bin/sh", "-c", script, "sh"}, probe(w)...)...)
		r.swapped()
		sidecar := r.c.Far("http://" + r.agentPod.Status.PodIP + ":7070")
		for where, got := range map[string]string{
			"the process": r.local.File("/shared/post-start"), "the sidecar": sidecar.File("/other/place/post-start"),
		} {
			if got != started || got == "" {
				t.Errorf("%s finds %q of postStart, want the original's %q", where, got, started)
			}
		}
		w.Output("leave", "app")
		r.run.WaitEnd(7)
		contains(t, "standard output", r.run.Stdout(), "it will stop")
		if strings.Contains(r.run.Stderr(), "hook failed") || strings.Contains(r.run.Stderr(), "not run") {
			t.Errorf("standard error: %s", r.run.Stderr())
		}
		w.WaitUnchanged()
	})
}

// TestFidelityLifecyclePostStartFails has postStart end badly, and then not be found: the process is ended, as the
// kubelet ends the container, and the original comes back.
func TestFidelityLifecyclePostStartFails(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		newRow(t, w, hooksPart())
		program := w.File("bin/probe", "#!/bin/sh\necho the hook speaks\nexit 3\n")
		if err := os.Chmod(program, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			path string
			says []string
		}{
			{filepath.Dir(program) + ":/usr/bin:/bin", []string{"the hook speaks", "! the postStart hook failed: it ended with status 3; the process is ended, as in the pod"}},
			{"/usr/bin:/bin", []string{"! the postStart hook failed: ", "probe", "the process is ended, as in the pod"}},
		} {
			run := w.Teleswap(append([]string{"swap", "app:app", "--lifecycle-hooks", "--env", "PATH=" + c.path, "--"}, probe(w)...)...)
			run.WaitEnd(1)
			contains(t, "standard error", run.Stderr(), append(c.says, "restored:")...)
			if strings.Contains(run.Stderr(), "swapped: ") || strings.Contains(run.Stdout(), "the hook speaks") {
				t.Errorf("standard output %q, error %q", run.Stdout(), run.Stderr())
			}
			contains(t, "standard output", run.Stdout(), "signal terminated")
			w.WaitUnchanged()
		}
	})
}
