package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// limitsScene has all that a process elsewhere cannot have.
const limitsScene = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, labels: {app: app}}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      shareProcessNamespace: true
      securityContext:
        runAsUser: 12345
        fsGroup: 2000
        sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8080", -name, original]
        readinessProbe: {httpGet: {path: /self, port: 8080}, periodSeconds: 1}
        securityContext: {readOnlyRootFilesystem: true, capabilities: {add: [NET_RAW]}}
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 750m, memory: 256Mi}}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
        volumeMounts:
        - {name: own, mountPath: /own}
        - {name: shared, mountPath: /shared}
        - {name: claim, mountPath: /claim}
        - {name: device, mountPath: /node/null}
      - name: sidecar
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":7070", -name, sidecar]
        volumeMounts: [{name: shared, mountPath: /shared}]
      volumes:
      - {name: own, emptyDir: {}}
      - {name: shared, emptyDir: {}}
      - {name: claim, persistentVolumeClaim: {claimName: claim}}
      - {name: device, hostPath: {path: /dev/null, type: CharDevice}}
---
`

// TestFidelityLimits has a pod with all that cannot be given: each kind is said in one line at the start. A plain target
// gets one line.
func TestFidelityLimits(t *testing.T) {
	const always = "· the process has your laptop's files, kernel, CPU and memory; what the image sets by ENV is in no specification: --env sets it"
	identity := func(w *scene.World, wants string) string {
		return fmt.Sprintf("· the process runs as you (uid %d) and owns what it sees of the pod's files; the pod's own user and groups (%s) hold for the agent", w.User.UID, wants)
	}
	asBoth(t, func(t *testing.T, w *scene.World) {
		volume := nodeFolder(t, w, "pv")
		w.Enforce("privileged")
		w.Apply(limitsScene + claim(volume))
		w.Apply(webScene)
		w.WaitAvailable()
		w.Freeze()
		plain := []string{always}
		if w.User.UID == 0 { // the scene's pods may not be root's
			plain = append(plain, identity(w, "runAsNonRoot"))
		}
		for target, want := range map[string][]string{
			"web": plain,
			"app:app": {
				always,
				identity(w, "runAsUser 12345, fsGroup 2000"),
				"· the process may do what you may, no more and no less: the container's rights (NET_RAW, readOnlyRootFilesystem) hold for the agent",
				"· the pod shares a kernel's processes or memory (shareProcessNamespace): the process sees your laptop's instead, and the others do not see it",
				"· the pod's sysctls (net.ipv4.tcp_syncookies) are not set for the process",
				"· what others write to /claim, /shared is read at the next look, but inotify does not tell of it, and locks and unix sockets do not reach across",
				"! the process will not see the pod's /node/null (volume device): it is neither a directory nor a plain file, but a thing of the node's kernel",
				"· the container's preStop hook is not run; --lifecycle-hooks runs it",
			},
		} {
			run := w.Teleswap(append([]string{"swap", target, "--"}, probe(w)...)...)
			run.WaitSwapped()
			before, _, _ := strings.Cut(run.Stderr(), "swapped: ")
			said := regexp.MustCompile(`(?m)^[·!] .*$`).FindAllString(before, -1)
			if !slices.Equal(said, want) {
				t.Errorf("%s: said\n%s\nwant\n%s", target, strings.Join(said, "\n"), strings.Join(want, "\n"))
			}
			run.SignalGroup(sigint)
			run.WaitEnd(128 + int(sigint))
		}
	})
}
