package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// The tests of docs/fidelity.md. Each asks the probe in the original pod, then the same probe in the
// pod's place on the laptop, and wants the same answers: for a user and for root.

// fidelityTarget is the target: APP_MORE, POD_MORE and CONTAINERS are filled in by each row.
const fidelityTarget = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: app}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, labels: {app: app}}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}, annotations: {example.com/note: "a \"note\""}}
    spec:
      terminationGracePeriodSeconds: 1
      serviceAccountName: app
      POD_MORE
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8080", -name, original]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}
        securityContext: RESTRICTED
        APP_MORE
      CONTAINERS
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  selector: {app: app}
  ports: [{name: http, port: 80, targetPort: http}]
`

// part is what a row adds to the target.
type part struct{ app, pod, containers, objects string }

func (p part) yaml() string {
	text := strings.NewReplacer(
		"APP_MORE", indented(p.app, 8), "POD_MORE", indented(p.pod, 6), "CONTAINERS", indented(p.containers, 6),
	).Replace(fidelityTarget)
	if p.objects != "" {
		text += "---\n" + p.objects
	}
	return strings.ReplaceAll(text, "RESTRICTED", restrictedContext)
}

func indented(text string, by int) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+strings.Repeat(" ", by))
}

// row is one row's world: the target, and a client that asks whoever is in its place.
type row struct {
	t *testing.T
	w *scene.World
	c *scene.Client
	// original is the probe in the pod; local, from swap on, the one on the laptop.
	original, local scene.Far
	originalPod     corev1.Pod
	agentPod        corev1.Pod
	run             *scene.Run
}

// newRow brings the target up and freezes the world.
func newRow(t *testing.T, w *scene.World, p part) *row {
	t.Helper()
	w.Apply(p.yaml())
	r := &row{t: t, w: w, c: w.NewClient()}
	w.WaitAvailable()
	pods := w.Pods("app=app")
	if len(pods) != 1 {
		t.Fatalf("%d pods of the target", len(pods))
	}
	r.originalPod = pods[0]
	r.original = r.c.Far("http://" + r.originalPod.Status.PodIP + ":8080")
	w.Freeze()
	return r
}

// swap puts the probe on the laptop in the target's place.
func (r *row) swap(more ...string) {
	r.t.Helper()
	r.run = r.w.Teleswap(append([]string{"swap", "app:app", "--"}, probe(r.w, more...)...)...)
	r.swapped()
}

func (r *row) swapped() {
	r.t.Helper()
	r.run.WaitSwapped()
	agents := r.w.Pods(scene.SessionLabel)
	if len(agents) != 1 {
		r.t.Fatalf("%d agent pods, want 1", len(agents))
	}
	r.agentPod = agents[0]
	r.local = r.c.Far("http://" + r.agentPod.Status.PodIP + ":8080")
	r.local.WaitLocal("local")
}

// end ends the swap by Ctrl-C.
func (r *row) end() {
	r.t.Helper()
	r.run.SignalGroup(sigint)
	r.run.WaitEnd(128 + int(sigint))
}

// question is one of the probe's paths with its parameters.
type question struct {
	path  string
	pairs []string
}

func ask(path string, pairs ...string) question { return question{path, pairs} }

func (q question) String() string { return q.path + " " + strings.Join(q.pairs, " ") }

// answers asks everything; what each pod has of its own (name, address) and times are taken out.
func (r *row) answers(f scene.Far, pod corev1.Pod, questions []question) map[string]string {
	r.t.Helper()
	own := ownNames(pod)
	all := map[string]string{}
	for _, q := range questions {
		answer := milliseconds.ReplaceAllString(f.Ask(q.path, q.pairs...), "")
		answer = ephemeral.ReplaceAllString(own(answer), "$1:PORT")
		answer = resolverOptions.ReplaceAllStringFunc(answer, func(line string) string {
			options := strings.Fields(line)
			slices.Sort(options[1:])
			return strings.Join(options, " ")
		})
		all[q.String()] = kubeletFolder.ReplaceAllString(answer, "..VERSION")
	}
	return all
}

// ownNames gives what takes the pod's name and addresses out of a text.
func ownNames(pod corev1.Pod) func(string) string {
	names := map[string]string{pod.Name: "POD_NAME"}
	for _, ip := range pod.Status.PodIPs {
		name := "POD_IP"
		if strings.Contains(ip.IP, ":") {
			name = "POD_IP6"
		}
		names[ip.IP] = name
		names[strings.NewReplacer(".", "-", ":", "-").Replace(ip.IP)] = strings.ReplaceAll(name, "_", "-")
	}
	return func(text string) string {
		for name, general := range names {
			// 10.0.0.1 is not part of 10.0.0.12.
			text = regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).ReplaceAllString(text, general)
		}
		return text
	}
}

var (
	milliseconds = regexp.MustCompile(`"milliseconds":[0-9.e-]+,?`)
	ephemeral    = regexp.MustCompile(`(POD_IP|\[POD_IP6\]):[0-9]+`)
	// resolverOptions are in resolv.conf in no order: the kubelet takes them from a map.
	resolverOptions = regexp.MustCompile(`(?m)^options .*$`)
	// kubeletFolder is what the kubelet calls a version of a volume (pkg/volume/util/atomic_writer.go).
	kubeletFolder = regexp.MustCompile(`\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+`)
)

// same wants the process's answers to be the original's.
func (r *row) same(want map[string]string, questions []question) {
	r.t.Helper()
	got := r.answers(r.local, r.agentPod, questions)
	for _, q := range questions {
		if got[q.String()] != want[q.String()] {
			r.t.Errorf("%s\nin the pod: %s\nswapped:    %s", q, want[q.String()], got[q.String()])
		}
	}
}

// compare asks in the pod, swaps, and asks again.
func (r *row) compare(questions []question, more ...string) {
	r.t.Helper()
	want := r.answers(r.original, r.originalPod, questions)
	r.swap(more...)
	r.same(want, questions)
}

// peerScene is whom the target calls: TCP on 5100, raw TCP on 5101, UDP on 5102, behind a Service,
// a headless Service, an ExternalName and a Service without endpoints.
const peerScene = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: peer, labels: {app: peer}}
spec:
  selector: {matchLabels: {app: peer}}
  template:
    metadata: {labels: {app: peer}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
      - name: peer
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":5100", -raw, ":5101", -udp, ":5102", -name, peer]
        readinessProbe: {httpGet: {path: /self, port: 5100}, periodSeconds: 1}
        securityContext: RESTRICTED
---
apiVersion: v1
kind: Service
metadata: {name: peer}
spec:
  selector: {app: peer}
  ports: [{name: http, port: 5100}, {name: raw, port: 5101}, {name: udp, port: 5102, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: peer}
  ports: [{name: http, port: 5100}]
---
apiVersion: v1
kind: Service
metadata: {name: external}
spec: {type: ExternalName, externalName: peer.NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{name: tcp, port: 80}, {name: udp, port: 53, protocol: UDP}]
`
