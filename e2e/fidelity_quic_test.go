package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// quicScene is an HTTP/3 server that is the target, one whom it calls, and a client.
const quicScene = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, labels: {app: app}}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
      - name: app
        image: QUIC
        imagePullPolicy: IfNotPresent
        args: [serve, ":8443", original]
        ports: [{name: h3, containerPort: 8443, protocol: UDP}]
        securityContext: RESTRICTED
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, labels: {app: other}}
spec:
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
      - name: server
        image: QUIC
        imagePullPolicy: IfNotPresent
        args: [serve, ":443", other]
        securityContext: RESTRICTED
      - name: client
        image: QUIC
        imagePullPolicy: IfNotPresent
        args: [wait]
        securityContext: RESTRICTED
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  selector: {app: app}
  ports: [{name: h3, port: 443, targetPort: h3, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  selector: {app: other}
  ports: [{name: h3, port: 443, protocol: UDP}]
`

// TestFidelityQUIC has quic-go speak HTTP/3: a client in the cluster with the process, and the process with a server in
// the cluster.
func TestFidelityQUIC(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(strings.ReplaceAll(quicScene, "RESTRICTED", restrictedContext))
		w.WaitAvailable()
		w.Freeze()
		client := w.PodIP("app=other")
		call := func(argv ...string) string {
			t.Helper()
			return w.Exec("app=other", "client", append([]string{"/quic"}, argv...)...)
		}
		questions := func(pod string) map[string]string {
			answers := map[string]string{}
			for _, base := range []string{"https://app", "https://" + pod + ":8443"} {
				for _, path := range []string{
					"/self", "/bytes?n=5000011", "/call?url=https://other/self", "/call?url=https://" + client + "/self",
					"/call?url=https://other/bytes?n=1000003", "/call?url=https://other/sum&n=1000003",
				} {
					answers[strings.Replace(base, pod, "POD", 1)+path] = neutral(call("get", base+path), pod, client)
				}
				answers[strings.Replace(base, pod, "POD", 1)+" sum"] = neutral(call("post", base+"/sum", "5000011"), pod, client)
			}
			return answers
		}
		serves := func(name string) {
			t.Helper()
			w.Eventually(name+" to answer by HTTP/3", func() string {
				// The original may end amid an exchange; so many answers, as it may be one of two that serve.
				got, err := w.TryExec("app=other", "client", "/quic", "who", "https://app/self", "40", name)
				if err != nil {
					return err.Error()
				}
				if !strings.HasPrefix(got, "HTTP/3.0 200 "+name+" ") {
					return "got " + got
				}
				return ""
			})
		}
		serves("original")
		want := questions(w.PodIP("app=app"))
		run := w.Teleswap("swap", "app", "--", w.Program(scene.QUICProgram), "serve", ":8443", "local")
		run.WaitSwapped()
		serves("local")
		got := questions(w.Pods(scene.SessionLabel)[0].Status.PodIP)
		for q, answer := range want {
			if strings.Contains(answer, "error") || !strings.HasPrefix(answer, "HTTP/3.0 200 ") {
				t.Errorf("%s: the original answers %s: the test proves nothing", q, answer)
			}
			if got[q] != strings.Replace(answer, "original", "local", 1) {
				t.Errorf("%s\nin the pod: %s\nswapped:    %s", q, answer, got[q])
			}
		}
		run.SignalGroup(sigint)
		run.WaitEnd(0)
	})
}

// neutral takes out what each pod has of its own, and the ports that the kernel chose.
func neutral(answer, pod, client string) string {
	answer = strings.NewReplacer(pod+":", "POD:", client+":", "CLIENT:").Replace(answer)
	for _, who := range []string{"POD:", "CLIENT:"} {
		before, after, found := strings.Cut(answer, who)
		if found {
			answer = fmt.Sprintf("%s%sPORT%s", before, who, strings.TrimLeft(after, "0123456789"))
		}
	}
	return answer
}
