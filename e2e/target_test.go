package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

func cleanupContext(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
}

// kindWorld is a world with a scene whose Service web has n Ready pods, frozen.
func kindWorld(t *testing.T, text string, n int) (*scene.World, *scene.Client) {
	t.Helper()
	w := newWorld(t)
	w.Apply(text)
	c := w.NewClient()
	waitPods(w, "app=web", n)
	c.Far("http://web").WaitLocal("original")
	w.Freeze()
	return w, c
}

// waitPods waits until n pods of the selector are Ready, and there are no others.
func waitPods(w *scene.World, selector string, n int) {
	w.T.Helper()
	w.Eventually(fmt.Sprintf("%d Ready pods of %s", n, selector), func() string {
		pods := w.Pods(selector)
		for _, p := range pods {
			if !scene.Ready(p) {
				return p.Name + " is not Ready"
			}
		}
		if len(pods) != n {
			return fmt.Sprintf("%d pods", len(pods))
		}
		return ""
	})
}

// servingKinds are the kinds whose pods serve.
var servingKinds = []struct {
	name, target, scene string
	pods                int
}{
	{"statefulset", "sts/web", setScene("  replicas: 2\n"), 2},
	{"parallel statefulset", "statefulset/web:app", setScene("  replicas: 2\n  podManagementPolicy: Parallel\n"), 2},
	{"replicaset", "rs/web", kindScene("apps/v1", "ReplicaSet", "  replicas: 2\n  selector: {matchLabels: {app: web}}\n"), 2},
	{"daemonset", "ds/web", kindScene("apps/v1", "DaemonSet", "  selector: {matchLabels: {app: web}}\n"), 1},
	{"pod", "po/web", podScene(), 1},
}

// TestTargetLosesNoRequest swaps each kind under load: the local process answers, then the
// originals again, and everything is as it was.
func TestTargetLosesNoRequest(t *testing.T) {
	parallel(t)
	for _, tc := range servingKinds {
		t.Run(tc.name, func(t *testing.T) {
			w, c := kindWorld(t, tc.scene, tc.pods)
			load := c.StartLoad("http://web/api")
			load.WaitOriginal(50)
			run := w.Teleswap(append([]string{"swap", tc.target, "--"}, probe(w, "-drain")...)...)
			run.WaitSwapped()
			far := c.Far("http://web")
			far.WaitLocal("local")
			load.WaitSwapped(100)
			contains(t, "the environment", strings.Join(far.Env(), "\n"), "TEAM=blue")
			contains(t, "list", w.Output("list"), "web")
			far.Exit(7)
			run.WaitEnd(7)
			w.WaitUnchanged()
			load.WaitOriginal(100)
			load.Stop().NoneFailed(t)
		})
	}
}

// TestTargetRestoredFromElsewhere kills command and daemon in the midst of a swap of each
// kind, and restores by what the mark in the cluster says: another machine has no more.
func TestTargetRestoredFromElsewhere(t *testing.T) {
	parallel(t)
	for _, tc := range servingKinds {
		t.Run(tc.name, func(t *testing.T) {
			w, c := kindWorld(t, tc.scene, tc.pods)
			run := w.Teleswap(append([]string{"swap", tc.target, "--"}, probe(w)...)...)
			run.WaitSwapped()
			c.Far("http://web").WaitLocal("local")
			killBoth(w, run)
			elsewhere := w.Home + "/elsewhere"
			w.File("elsewhere/.keep", "")
			env := []string{"XDG_STATE_HOME=" + elsewhere, "XDG_RUNTIME_DIR=" + elsewhere, "HOME=" + elsewhere}
			w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "restore", "web").WaitEnd(0)
			w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "quit").Wait() // there may be none
			w.WaitUnchanged()
			c.Far("http://web").WaitLocal("original")
		})
	}
}

// TestTargetStatefulSetIdentity has a claim, a hostname and a name in the headless Service.
func TestTargetStatefulSetIdentity(t *testing.T) {
	w := newWorld(t)
	makeVolume(t, w, "data-web-0", corev1.ReadWriteOnce)
	claims := "  replicas: 1\n  volumeClaimTemplates:\n  - metadata: {name: data}\n" +
		"    spec: {accessModes: [ReadWriteOnce], storageClassName: \"\", resources: {requests: {storage: 1Mi}}}\n"
	w.Apply(strings.Replace(setScene(claims), "        env:", "        volumeMounts: [{name: data, mountPath: /data}]\n        env:", 1))
	c := w.NewClient()
	waitPods(w, "app=web", 1)
	w.Freeze()
	run := w.Teleswap(append([]string{"swap", "sts/web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	// The name of the first pod leads to the local process.
	far := c.Far("http://web-0.nodes:8080")
	self := far.WaitLocal("local")
	if self.Hostname != "web-0" {
		t.Errorf("hostname %q, want web-0", self.Hostname)
	}
	contains(t, "the environment", strings.Join(far.Env(), "\n"), "POD_NAME=web-0")
	pods := w.Pods(scene.SessionLabel)
	if len(pods) != 1 || !slices.ContainsFunc(pods[0].Spec.Volumes, func(v corev1.Volume) bool {
		return v.Name == "data" && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == "data-web-0"
	}) {
		t.Errorf("the agent's pod has not the claim data-web-0: %+v", pods)
	}
	far.Exit(0)
	run.WaitEnd(0)
	w.WaitUnchanged()
}

// TestTargetPodKeepsItsState looks for the very container that ran before.
func TestTargetPodKeepsItsState(t *testing.T) {
	w, c := kindWorld(t, podScene(), 1)
	before := onePod(t, w, "web")
	run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	c.Far("http://web").WaitLocal("local")
	parked := onePod(t, w, "web")
	if parked.Labels["app"] != "" || parked.Labels["team"] != "blue" || !scene.Ready(parked) {
		t.Errorf("during the swap the original has the labels %v, Ready %v; want it without app, and running", parked.Labels, scene.Ready(parked))
	}
	c.Far("http://web").Exit(0)
	run.WaitEnd(0)
	w.WaitUnchanged()
	after := onePod(t, w, "web")
	was, is := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if before.UID != after.UID || was.ContainerID != is.ContainerID || is.RestartCount != was.RestartCount {
		t.Errorf("pod %s container %s (%d restarts) became pod %s container %s (%d restarts)",
			before.UID, was.ContainerID, was.RestartCount, after.UID, is.ContainerID, is.RestartCount)
	}
}

func onePod(t *testing.T, w *scene.World, name string) corev1.Pod {
	t.Helper()
	p, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return *p
}

// TestTargetDaemonSetIsNotSurprised watches every pod that there is with the labels of a
// DaemonSet: its controller must neither make one nor end one of its own.
func TestTargetDaemonSetIsNotSurprised(t *testing.T) {
	w, c := kindWorld(t, kindScene("apps/v1", "DaemonSet", "  selector: {matchLabels: {app: web}}\n"), 1)
	original := w.Pods("app=web")[0]
	watcher, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	var following sync.WaitGroup
	seen := map[string]bool{}
	following.Go(func() { // ends when the watch is stopped
		for event := range watcher.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok {
				seen[p.Name] = true
			}
		}
	})
	run := w.Teleswap(append([]string{"swap", "ds/web", "--node", original.Spec.NodeName, "--"}, probe(w)...)...)
	run.WaitSwapped()
	far := c.Far("http://web")
	far.WaitLocal("local")
	agents := w.Pods(scene.SessionLabel)
	if len(agents) != 1 || agents[0].Spec.NodeName != original.Spec.NodeName {
		t.Fatalf("%d agent pods, want one on node %s", len(agents), original.Spec.NodeName)
	}
	if owner := metav1.GetControllerOf(&agents[0]); owner == nil || owner.Kind != "DaemonSet" {
		t.Errorf("the agent's pod belongs to %+v, want the DaemonSet", owner)
	}
	w.Eventually("the DaemonSet to count the agent", func() string {
		d, err := w.Lab.Kube.AppsV1().DaemonSets(w.Namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if d.Status.CurrentNumberScheduled != 1 || d.Status.NumberReady != 1 {
			return fmt.Sprintf("%+v", d.Status)
		}
		return ""
	})
	far.Exit(0)
	run.WaitEnd(0)
	w.WaitUnchanged()
	watcher.Stop()
	following.Wait()
	agent := agents[0].Name
	for name := range seen {
		if name != original.Name && name != agent && name != agent+"-slot" {
			t.Errorf("the controller made pod %s", name)
		}
	}
	if after := w.Pods("app=web"); len(after) != 1 || after[0].UID != original.UID {
		t.Errorf("the original pod is not the one that was: %+v", after)
	}
	refused(t, w.Teleswap("swap", "ds/web", "--node", "nowhere", "--", "sleep", "9"), 2, "nowhere", original.Spec.NodeName)
}

// TestTargetRunsOnce has a Job and a CronJob, which are suspended meanwhile; the process's
// status is the session's.
func TestTargetRunsOnce(t *testing.T) {
	parallel(t)
	for _, tc := range []struct{ name, target, scene string }{
		{"job", "job/work", jobScene()},
		{"cronjob", "cj/work", cronScene()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.Apply(tc.scene)
			if tc.name == "job" {
				waitPods(w, "job-name=work", 1)
			}
			w.Freeze()
			gate := filepath.Join(w.Home, "gate")
			run := w.Teleswap("swap", tc.target, "--", "sh", "-c", `echo "work is $WORK"; until [ -e "$0" ]; do sleep 0.1; done; exit 5`, gate)
			run.WaitSwapped()
			run.WaitStdout(`work is the job's`)
			suspended := func() bool {
				if tc.name == "job" {
					j, err := w.Lab.Kube.BatchV1().Jobs(w.Namespace).Get(t.Context(), "work", metav1.GetOptions{})
					return err == nil && *j.Spec.Suspend
				}
				j, err := w.Lab.Kube.BatchV1().CronJobs(w.Namespace).Get(t.Context(), "work", metav1.GetOptions{})
				return err == nil && *j.Spec.Suspend
			}
			if !suspended() {
				t.Error("it is not suspended during the swap")
			}
			w.File("gate", "")
			run.WaitEnd(5)
			if suspended() {
				t.Error("it is still suspended afterwards")
			}
			w.WaitUnchanged()
		})
	}
}

// TestTargetOfAnOwnedPod names a pod and means what made it.
func TestTargetOfAnOwnedPod(t *testing.T) {
	w, c := webWorld(t)
	pod := w.Pods("app=web")[0].Name
	run := w.Teleswap(append([]string{"swap", "pod/" + pod, "--"}, probe(w)...)...)
	run.WaitSwapped()
	contains(t, "standard error", run.Stderr(), "pod/"+pod+" belongs to deployment/web")
	far := c.Far("http://web")
	far.WaitLocal("local")
	far.Exit(0)
	run.WaitEnd(0)
	w.WaitUnchanged()
}

// TestTargetScaleFirst has a port of the node, which two pods cannot have.
func TestTargetScaleFirst(t *testing.T) {
	w := newWorld(t)
	w.Enforce("privileged")
	w.Apply(strings.Replace(webScene, "containerPort: 8080}", "containerPort: 8080, hostPort: 18080}", 1))
	w.Scale("web", 1)
	c := w.NewClient()
	waitPods(w, "app=web", 1)
	w.Freeze()
	run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	contains(t, "standard error", run.Stderr(), "port 18080 of the node (hostPort)", "scale-first")
	far := c.Far("http://web")
	far.WaitLocal("local")
	far.Exit(0)
	run.WaitEnd(0)
	w.WaitUnchanged()
}

// TestTargetRefused is what cannot be swapped, and must be left as it is.
func TestTargetRefused(t *testing.T) {
	w := newWorld(t)
	w.Enforce("privileged")
	w.Apply(strings.NewReplacer("name: worker", "name: host", "app: worker", "app: host", "      containers:", "      hostNetwork: true\n      containers:").Replace(noPortScene))
	w.Apply(strings.NewReplacer("name: worker", "name: twin", "app: worker", "app: twin").Replace(noPortScene))
	w.Apply(strings.Replace(cronScene(), "name: work", "name: twin", 1))
	w.WaitAvailable()
	w.Freeze()
	for _, tc := range []struct {
		name, target string
		parts        []string
	}{
		{"hostNetwork", "host", []string{"deployment/host", "hostNetwork"}},
		{"two of one name", "twin", []string{"deployment/twin", "cronjob/twin"}},
		{"another kind", "sts/twin", []string{`statefulset "twin" not found`, "deployment/twin"}},
		{"near name of another kind", "cj/twni", []string{"did you mean", "cronjob/twin"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			writes := w.WatchWrites()
			refused(t, w.Teleswap("swap", tc.target, "--", "sleep", "9"), 2, tc.parts...)
			untouched(t, w, writes)
		})
	}
}

// TestTargetQuota forbids the agent's pod: one message, in the quota's words, and all undone.
func TestTargetQuota(t *testing.T) {
	parallel(t)
	for _, tc := range []struct{ name, target, scene string }{
		{"deployment", "deployment/web", webScene},
		{"pod", "pod/web", podScene()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.Apply(tc.scene)
			n := 2
			if tc.name == "pod" {
				n = 1
			}
			waitPods(w, "app=web", n)
			w.Apply(fmt.Sprintf("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: tight}\nspec: {hard: {pods: \"%d\"}}\n", n))
			w.Eventually("the quota to be counted", func() string {
				q, err := w.Lab.Kube.CoreV1().ResourceQuotas(w.Namespace).Get(t.Context(), "tight", metav1.GetOptions{})
				if err != nil || q.Status.Used.Pods().Value() != int64(n) {
					return fmt.Sprintf("%v %v", err, q)
				}
				return ""
			})
			w.Freeze()
			refused(t, w.Teleswap(append([]string{"swap", tc.target, "--"}, probe(w)...)...), 1, "exceeded quota: tight", "pods=")
			w.WaitUnchanged()
		})
	}
}

// TestTargetSkipInit has an init container that never ends well without the flag.
func TestTargetSkipInit(t *testing.T) {
	w := newWorld(t)
	w.Apply(strings.Replace(webScene, "      containers:", `      initContainers:
      - name: once
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-wait, 1ms, /probe, -once]
        securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
      - name: mesh
        image: PROBE
        imagePullPolicy: IfNotPresent
        restartPolicy: Always
        args: [-listen, ":7070", -name, mesh]
        securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
      containers:`, 1))
	w.Freeze()
	// The originals never come up, so the agent's pod would not either.
	run := w.Teleswap(append([]string{"swap", "web", "--skip-init", "--"}, probe(w)...)...)
	run.WaitSwapped()
	pods := w.Pods(scene.SessionLabel)
	if len(pods) != 1 || len(pods[0].Spec.InitContainers) != 1 || pods[0].Spec.InitContainers[0].Name != "mesh" {
		t.Errorf("agent pods %+v, want one with the sidecar mesh alone", pods)
	}
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
}

// TestTargetRestoredFromEveryStep kills the command in the midst of each step, for the kinds
// that are given back in a way of their own.
func TestTargetRestoredFromEveryStep(t *testing.T) {
	parallel(t)
	served := []string{"resolve", "mark", "agent", "dial", "start", "ready", "shift"}
	for _, tc := range []struct {
		name, target, scene string
		pods                int
		steps               []string
	}{
		{"daemonset", "ds/web", kindScene("apps/v1", "DaemonSet", "  selector: {matchLabels: {app: web}}\n"), 1, served},
		{"pod", "po/web", podScene(), 1, served},
		{"cronjob", "cj/work", cronScene(), 0, []string{"resolve", "mark", "shift", "agent", "dial", "start", "ready"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.Apply(tc.scene)
			if tc.pods > 0 {
				waitPods(w, "app=web", tc.pods)
			}
			w.Freeze()
			for _, step := range tc.steps {
				run := w.Teleswap(append([]string{"swap", tc.target, "--"}, probe(w)...)...)
				run.WaitStderr(`^✓ +` + step + `\b`)
				run.Signal(sigkill)
				run.Wait()
				w.WaitUnchanged()
			}
		})
	}
}

// TestTargetVariableTooLong has a key that is too long for a variable: the original does not
// start either, and that is said before anything is changed.
func TestTargetVariableTooLong(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 140<<10)
	w.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: big}\ndata: {BIG: \"" + long + "\"}\n")
	w.Apply(strings.Replace(webScene, "{configMapRef: {name: web}}]", "{configMapRef: {name: web}}, {configMapRef: {name: big}}]", 1))
	w.Eventually("the original to be in trouble", func() string {
		for _, p := range w.Pods("app=web") {
			for _, s := range p.Status.ContainerStatuses {
				if s.RestartCount > 0 || s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating" {
					return ""
				}
			}
		}
		return "it starts"
	})
	w.Freeze()
	refused(t, w.Teleswap(append([]string{"swap", "web", "--"}, probe(w)...)...), 2, "variable BIG", "configmap/big", "128 KiB", "as a file")
	w.WaitUnchanged()
}

// TestTargetUDPPorts gives the agent the UDP ports of container and Service.
func TestTargetUDPPorts(t *testing.T) {
	w := newWorld(t)
	w.Apply(strings.NewReplacer(
		"containerPort: 8080}]", "containerPort: 8080}, {name: stats, containerPort: 8125, protocol: UDP}]",
		"[{port: 80, targetPort: http}]", "[{name: http, port: 80, targetPort: http}, {name: dns, port: 53, targetPort: 5353, protocol: UDP}]",
	).Replace(webScene))
	w.WaitAvailable()
	w.Freeze()
	run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w, "-udp", ":5353")...)...)
	run.WaitSwapped()
	for _, pod := range w.Pods(scene.SessionLabel) {
		args := strings.Join(pod.Spec.Containers[0].Args, " ")
		contains(t, "the agent's arguments", args, "--listen 8080", "--listen-udp 5353", "--listen-udp 8125")
	}
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
}
