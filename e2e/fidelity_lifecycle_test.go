package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// lifecycleScene is the web scene with one pod, hooks, all three probes and little time to end.
var lifecycleScene = strings.NewReplacer(
	"replicas: 2", "replicas: 1",
	"terminationGracePeriodSeconds: 10", "terminationGracePeriodSeconds: 4",
	`        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}
`, `        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1, failureThreshold: 1}
        livenessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1}
        startupProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1, failureThreshold: 30}
        lifecycle:
          postStart: {sleep: {seconds: 1}}
          preStop: {httpGet: {path: "/print?text=from+preStop", port: http}}
`,
).Replace(webScene)

func lifecycleWorld(w *scene.World) *scene.Client {
	w.T.Helper()
	w.Apply(lifecycleScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	return c
}

// TestFidelityLifecyclePodEvicted drains the node, as far as the agent's pod is concerned: the process gets SIGTERM, and
// ends in its own way.
func TestFidelityLifecyclePodEvicted(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := lifecycleWorld(w)
		run, _ := swapWeb(w, c)
		pod := w.Pods(scene.SessionLabel)[0]
		err := w.Lab.Kube.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: w.Namespace},
		})
		if err != nil {
			t.Fatalf("evict %s: %v", pod.Name, err)
		}
		run.WaitEnd(1)
		contains(t, "standard error", run.Stderr(),
			"! pod "+pod.Name+" was told to end: it was deleted, or its node is being drained; the process has 4.0s to end",
			"the container's postStart and preStop hooks are not run; --lifecycle-hooks runs them",
			"restored:")
		if n := strings.Count(run.Stdout()+run.Stderr(), "signal terminated"); n != 1 {
			t.Errorf("the process got SIGTERM %d times, want once; standard output %q", n, run.Stdout())
		}
		w.WaitUnchanged()
	})
}

// TestFidelityLifecycleGrace deletes the pod of a process that does not care for SIGTERM.
func TestFidelityLifecycleGrace(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := lifecycleWorld(w)
		script := `trap 'echo told to end' TERM; "$@" & while :; do wait; done`
		run := w.Teleswap(append([]string{"swap", "web", "--", "/bin/sh", "-c", script, "sh"}, probe(w)...)...)
		run.WaitSwapped()
		c.Far("http://web").WaitLocal("local")
		pod := w.Pods(scene.SessionLabel)[0]
		if err := w.Lab.Kube.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatalf("delete %s: %v", pod.Name, err)
		}
		run.WaitStdout("told to end")
		run.WaitEnd(1)
		contains(t, "standard error", run.Stderr(), "has 4.0s to end", "sending SIGKILL", "restored:")
		w.WaitUnchanged()
	})
}

// TestFidelityLifecycleHooks runs the container's hooks beside the process.
func TestFidelityLifecycleHooks(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := lifecycleWorld(w)
		run := w.Teleswap(append([]string{"swap", "web", "--lifecycle-hooks", "--"}, probe(w)...)...)
		run.WaitSwapped()
		c.Far("http://web").WaitLocal("local")
		w.Output("leave", "web")
		run.Wait()
		out := run.Stdout() + run.Stderr()
		hook, signal := strings.Index(out, "from preStop"), strings.Index(run.Stdout(), "signal terminated")
		if hook < 0 || signal >= 0 && signal < strings.Index(run.Stdout(), "from preStop") || strings.Contains(out, "hook failed") || strings.Contains(out, "not run") {
			t.Errorf("standard output %q, error %q", run.Stdout(), run.Stderr())
		}
		w.WaitUnchanged()
	})
}

// TestFidelityProbes stops the process, as a debugger does: the pod's probes restart nothing, and the same pod serves on
// when the process does.
func TestFidelityProbes(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := lifecycleWorld(w)
		run, far := swapWeb(w, c)
		before := w.Pods(scene.SessionLabel)[0]
		pid := far.Self().PID
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// That nothing happens can only be seen by giving it time to: the original's liveness probe would have failed
		// five times over.
		over := time.After(5 * time.Second)
		for waiting := true; waiting; {
			select {
			case <-over:
				waiting = false
			case <-time.After(100 * time.Millisecond):
			}
			pods := w.Pods(scene.SessionLabel)
			if len(pods) != 1 || pods[0].UID != before.UID {
				t.Fatalf("the pod was replaced: %d pods", len(pods))
			}
			for _, s := range pods[0].Status.ContainerStatuses {
				if s.RestartCount > 0 {
					t.Fatalf("container %s was restarted", s.Name)
				}
			}
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		far.WaitLocal("local")
		far.Exit(0)
		run.WaitEnd(0)
	})
}
