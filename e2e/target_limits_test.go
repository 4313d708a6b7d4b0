package e2e

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// sizesScene is a namespace that says what a container gets which asks for nothing, and
// what it may ask for; and how much all pods may have.
const sizesScene = `
apiVersion: v1
kind: LimitRange
metadata: {name: sizes}
spec:
  limits:
  - type: Container
    default: {cpu: 500m, memory: 96Mi}
    defaultRequest: {cpu: 10m, memory: 24Mi}
    min: {cpu: 5m, memory: 16Mi}
    max: {cpu: "1", memory: 256Mi}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: tight}
spec: {hard: {requests.memory: REQUESTS, limits.cpu: "8"}}
`

// sizesTarget has a container that says what it needs, and one that leaves it to the namespace.
const sizesTarget = `
resources: {requests: {cpu: 20m, memory: 40Mi}, limits: {memory: 64Mi}}
env:
- {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
- {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
`

const sizesSidecar = `
- name: helper
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -name, helper]
  securityContext: RESTRICTED
`

// limitsRow is a target of 64 MiB in all (40 that it asks for, 24 by default) under a quota.
func limitsRow(t *testing.T, w *scene.World, quota string) *row {
	t.Helper()
	w.Apply(strings.Replace(sizesScene, "REQUESTS", quota, 1))
	r := newRow(t, w, part{app: sizesTarget, containers: sizesSidecar, pod: "enableServiceLinks: true"})
	w.Eventually("the quota to be counted", func() string {
		q, err := w.Lab.Kube.CoreV1().ResourceQuotas(w.Namespace).Get(t.Context(), "tight", metav1.GetOptions{})
		used := q.Status.Used[corev1.ResourceRequestsMemory]
		if err != nil || used.Value() != (64+24)<<20 { // the client has the default
			return fmt.Sprintf("%v %v", err, q.Status.Used)
		}
		return ""
	})
	return r
}

// TestTargetLimitRange keeps each container's resources, and those that the namespace gives to who
// asks for none; the process sees them in its environment as the original did.
func TestTargetLimitRange(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := limitsRow(t, w, "256Mi")
		limits := func(f scene.Far) []string {
			var found []string
			for _, v := range f.Env() {
				if strings.HasPrefix(v, "MEMORY_LIMIT=") || strings.HasPrefix(v, "CPU_LIMIT=") {
					found = append(found, v)
				}
			}
			slices.Sort(found)
			return found
		}
		want := limits(r.original)
		r.swap()
		if got := limits(r.local); len(want) != 2 || !reflect.DeepEqual(got, want) {
			t.Errorf("the process's variables are %v, want %v", got, want)
		}
		for i, c := range r.originalPod.Spec.Containers {
			got := r.agentPod.Spec.Containers[i]
			if got.Name != c.Name || !reflect.DeepEqual(got.Resources, c.Resources) {
				t.Errorf("container %s has %+v, want %s's %+v", got.Name, got.Resources, c.Name, c.Resources)
			}
		}
		// The agent lives with what the target's container may use, at work as well: 100 MB.
		r.c.Far("http://app").WaitLocal("local")
		for range 20 {
			if o := r.c.Do("get", map[string][]string{"url": {"http://app/bytes?n=5000000"}, "sum": {"1"}, "timeout": {"60s"}}); !o.OK {
				t.Fatalf("5 MB from the process: %+v", o)
			}
		}
		for _, p := range w.Pods(scene.SessionLabel) {
			for _, s := range p.Status.ContainerStatuses {
				if s.RestartCount != 0 {
					t.Errorf("container %s was started again: %+v", s.Name, s.LastTerminationState)
				}
			}
		}
		r.end()
		w.WaitUnchanged()
	})
}

// TestTargetResourceQuota has room for one pod of the target's size only: that is said, with the way
// out, and nothing stays changed; with the original gone first there is room.
func TestTargetResourceQuota(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := limitsRow(t, w, "100Mi")
		run := w.Teleswap(append([]string{"swap", "app:app", "--"}, probe(w)...)...)
		refused(t, run, 1, "exceeded quota: tight", "requests.memory=64Mi", "limited: requests.memory=100Mi", "--order scale-first")
		w.WaitUnchanged()
		r.run = w.Teleswap(append([]string{"swap", "--order", "scale-first", "app:app", "--"}, probe(w)...)...)
		r.swapped()
		r.c.Far("http://app").WaitLocal("local")
		r.end()
		w.WaitUnchanged()
		r.c.Far("http://app").WaitLocal("original")
	})
}

// TestTargetVolumeOfOnePod has a claim that one pod at a time may mount: the original goes first,
// unasked, and that is said.
func TestTargetVolumeOfOnePod(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		makeVolume(t, w, "data", corev1.ReadWriteOncePod)
		r := newRow(t, w, part{
			pod: "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]",
			app: "volumeMounts: [{name: data, mountPath: /srv/data}]",
			objects: "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n" +
				"spec: {accessModes: [ReadWriteOncePod], storageClassName: \"\", resources: {requests: {storage: 1Mi}}}\n---\n",
		})
		r.compare([]question{ask("fileop", "op", "list", "path", "/srv/data")})
		said := r.run.Stderr()
		contains(t, "standard error", said, "volume claim data (ReadWriteOncePod)", "scale-first")
		if shift, agent := strings.Index(said, "✓ shift"), strings.Index(said, "✓ agent"); shift < 0 || agent < shift {
			t.Errorf("the original did not go before the agent came:\n%s", said)
		}
		if originals := w.Pods("app=app,!" + scene.SessionLabel); len(originals) != 0 {
			t.Errorf("%d of the original's pods are there beside the agent", len(originals))
		}
		// Another machine knows by the mark that the agent must go before the original can come.
		killBoth(w, r.run)
		w.File("elsewhere/.keep", "")
		elsewhere := w.Home + "/elsewhere"
		env := []string{"XDG_STATE_HOME=" + elsewhere, "XDG_RUNTIME_DIR=" + elsewhere, "HOME=" + elsewhere}
		restore := w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "restore", "app")
		restore.WaitEnd(0)
		if strings.Contains(restore.Stderr(), "not ready") {
			t.Errorf("the original could not come beside the agent:\n%s", restore.Stderr())
		}
		w.Start(scene.How{Env: env}, w.Lab.Bin.Teleswap, "quit").Wait() // there may be none
		w.WaitUnchanged()
		r.c.Far("http://app").WaitLocal("original")
	})
}

// nativeSidecar lives as long as the pod although it is an init container.
const nativeSidecar = `
initContainers:
- name: once
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-write, "/shared/once=done"]
  volumeMounts: [{name: shared, mountPath: /shared}]
  securityContext: RESTRICTED
- name: mesh
  image: PROBE
  imagePullPolicy: IfNotPresent
  restartPolicy: Always
  args: [-listen, "127.0.0.1:7070", -listen, ":7072", -raw, ":7071", -name, mesh]
  startupProbe: {httpGet: {path: /self, port: 7072}, periodSeconds: 1}
  volumeMounts: [{name: shared, mountPath: /shared}]
  securityContext: RESTRICTED
volumes: [{name: shared, emptyDir: {}}]
`

// TestTargetNativeSidecar has a sidecar that Kubernetes knows as one: it runs in the agent's pod, its ports
// are on the process's loopback, it calls the process on its own, and both share a volume.
func TestTargetNativeSidecar(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, part{pod: nativeSidecar, app: "volumeMounts: [{name: shared, mountPath: /shared}]"})
		refused(t, w.Teleswap("swap", "app:once", "--", "sleep", "9"), 2, `"once"`, "init container", "its containers: app")
		refused(t, w.Teleswap("swap", "app:mesh", "--", "sleep", "9"), 2, `"mesh"`, "native sidecar", "its containers: app")
		r.compare([]question{
			ask("dial", "addr", "127.0.0.1:7079", "timeout", "5s"),
			ask("fileop", "op", "list", "path", "/shared"),
		})
		var mesh scene.Self
		body := r.local.Do("get", "url", "http://127.0.0.1:7070/self").Body
		decodeJSON(t, body, &mesh)
		if mesh.Name != "mesh" || mesh.Hostname != r.agentPod.Name {
			t.Errorf("the sidecar on the process's loopback is %+v, want mesh in %s", mesh, r.agentPod.Name)
		}
		if o := r.local.Do("raw", "addr", "127.0.0.1:7071", "say", "quit"); !o.OK {
			t.Errorf("the sidecar's own protocol on the process's loopback: %+v", o)
		}
		sidecar := r.c.Far("http://" + r.agentPod.Status.PodIP + ":7072")
		var app scene.Self
		decodeJSON(t, sidecar.Do("get", "url", "http://127.0.0.1:8080/self").Body, &app)
		if app.Name != "local" {
			t.Errorf("on the sidecar's loopback answers %+v, want the process", app)
		}
		r.local.FileOp("write", "/shared/note", "from the laptop")
		if got := sidecar.File("/shared/note"); got != "from the laptop" {
			t.Errorf("the sidecar reads %q", got)
		}
		r.end()
		w.WaitUnchanged()
	})
}

func decodeJSON(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("decode %.300q: %v", text, err)
	}
}
