package e2e

import (
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// secretWord is in a Secret of the scene: it may be in the process, and in no log.
const secretWord = "w0rd-that-nobody-may-log"

// webScene is the probe in the role of a service: two replicas that end as a good server
// behind a Service does, after the endpoints have moved.
const webScene = `
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {SECRET_WORD: ` + secretWord + `}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {ENV: test, FROM_CONFIG: "a value with spaces = and signs"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}, annotations: {example.com/note: keep me}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8080", -plain, -name, original, -drain]
        ports: [{name: http, containerPort: 8080}]
        envFrom: [{secretRef: {name: web}}, {configMapRef: {name: web}}]
        env:
        - {name: PATH, value: /pod/bin}
        - {name: HOME, value: /pod/home}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: MULTILINE, value: "one\ntwo"}
        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`

// probeDeployment is a Deployment of one probe as the Pod Security Standard "restricted" wants it; fields are the further ones
// of its container, each line indented by eight spaces.
func probeDeployment(name, fields string) string {
	return strings.NewReplacer("NAME", name, "FIELDS", strings.TrimSpace(fields), "RESTRICTED", restrictedContext).Replace(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, labels: {app: NAME}}
spec:
  replicas: 1
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        FIELDS
        securityContext: RESTRICTED
`)
}

// backendScene is a service for others to call.
var backendScene = probeDeployment("service-b", `
        args: [-listen, ":5100", -name, backend]
        ports: [{containerPort: 5100}]
        readinessProbe: {httpGet: {path: /self, port: 5100}, periodSeconds: 1}`) + `
---
apiVersion: v1
kind: Service
metadata: {name: service-b}
spec:
  selector: {app: service-b}
  ports: [{port: 5100}]
`

// portsScene has two containers, and the first of them two ports behind a Service that
// names one and numbers the other, on ports of its own.
const portsScene = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: ports, labels: {app: ports}}
spec:
  replicas: 2
  selector: {matchLabels: {app: ports}}
  template:
    metadata: {labels: {app: ports}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8080", -listen, ":9090", -name, original]
        ports: [{name: web, containerPort: 8080}, {name: admin, containerPort: 9090}]
        readinessProbe: {httpGet: {path: /self, port: web}, periodSeconds: 1}
        securityContext: &restricted {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
      - name: sidecar
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":7070", -name, sidecar]
        ports: [{name: side, containerPort: 7070}]
        securityContext: *restricted
---
apiVersion: v1
kind: Service
metadata: {name: ports}
spec:
  selector: {app: ports}
  ports:
  - {name: web, port: 80, targetPort: web}
  - {name: admin, port: 9999, targetPort: 9090}
  - {name: side, port: 7000, targetPort: side}
`

// webWorld is a world with the web scene and a client pod, frozen.
func webWorld(t *testing.T) (*scene.World, *scene.Client) {
	t.Helper()
	w := newWorld(t)
	w.Apply(webScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	return w, c
}

// probe is the command that runs the probe on the laptop, serving on 8080.
func probe(w *scene.World, more ...string) []string {
	return append([]string{w.Lab.Bin.Probe, "-listen", ":8080", "-name", "local"}, more...)
}

// swapWeb starts a swap of the web scene by the probe and waits until it answers.
func swapWeb(w *scene.World, c *scene.Client, more ...string) (*scene.Run, scene.Far) {
	w.T.Helper()
	run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w, more...)...)...)
	run.WaitSwapped()
	far := c.Far("http://web")
	far.WaitLocal("local")
	return run, far
}

// contains fails the test for each part that the text lacks.
func contains(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(part)) {
			t.Errorf("%s lacks %q:\n%s", what, part, text)
		}
	}
}

// completes waits until what a shell is told on Tab has all the words, and returns it: the product gives up silently after two seconds,
// in which a busy machine may not have answered, let alone started a daemon first.
func completes(w *scene.World, what string, told func() string, words ...string) string {
	w.T.Helper()
	var out string
	w.Eventually(what+" to complete", func() string {
		out = told()
		for _, word := range words {
			if !strings.Contains("\n"+out, "\n"+word) {
				return word + " is missing in " + out
			}
		}
		return ""
	})
	return out
}

// noPortScene serves nothing: a worker that only calls others.
var noPortScene = probeDeployment("worker", `
        args: [-sleep]`)
