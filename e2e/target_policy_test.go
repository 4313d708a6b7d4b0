package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// policyScene denies everything, and then allows by labels and ports: the client may call the target, the
// target its peer on two ports, everybody the resolver. The stranger may call whom it likes, and wall and client may be
// called by everybody: what does not come through there is the target's doing.
const policyScene = peerScene + `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: resolver}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 53, protocol: UDP}, {port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: app}
spec:
  podSelector: {matchLabels: {app: app}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: peer}}}]}]
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: peer}
spec:
  podSelector: {matchLabels: {app: peer}}
  ingress: [{from: [{podSelector: {matchLabels: {app: app}}}], ports: [{port: 5100}, {port: 5102, protocol: UDP}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: callers}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [client, stranger]}]}
  policyTypes: [Egress]
  egress: [{}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: called}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [wall, stranger, client]}]}
  ingress: [{}]
---
` + bystander + "---\n"

// bystander is a pod that has nothing to do with the target, and its Service.
const bystander = `
apiVersion: v1
kind: Pod
metadata: {name: BYSTANDER, labels: {app: BYSTANDER}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
  - name: probe
    image: PROBE
    imagePullPolicy: IfNotPresent
    args: [-listen, ":5100", -udp, ":5102", -name, BYSTANDER]
    securityContext: RESTRICTED
    readinessProbe: {httpGet: {path: /self, port: 5100}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: BYSTANDER}
spec:
  selector: {app: BYSTANDER}
  ports: [{name: http, port: 5100}, {name: udp, port: 5102, protocol: UDP}]
`

// TestTargetNetworkPolicy is in a namespace that denies everything by default: who may call the
// target reaches the process and nobody else does, and the process is kept from what the target was kept from.
func TestTargetNetworkPolicy(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		objects := strings.Replace(policyScene, bystander, strings.ReplaceAll(bystander, "BYSTANDER", "wall")+"---\n"+strings.ReplaceAll(bystander, "BYSTANDER", "stranger"), 1)
		r := newRow(t, w, part{objects: objects})
		stranger := r.c.Far("http://" + w.PodIP("app=stranger") + ":5100")
		wantsPolicies(t, w, stranger)
		peer, wall := w.PodIP("app=peer"), w.PodIP("app=wall")
		for _, addr := range []string{"peer:5100", "wall:5100"} {
			w.Eventually(addr+" to be Ready for all", func() string {
				who := r.original
				if addr == "wall:5100" {
					who = stranger
				}
				return who.Do("dial", "addr", addr, "timeout", "2s").Error
			})
		}
		const short, long = "2s", "20s"
		allowed := []question{
			ask("dial", "addr", "peer:5100", "timeout", long),
			ask("dial", "addr", peer+":5100", "timeout", long),
			ask("udp", "addr", "peer:5102", "text", "hello", "timeout", long),
			ask("lookup", "name", "peer"),
			ask("lookup", "name", "nobody."+w.Namespace+".svc.cluster.local."),
		}
		denied := []question{
			ask("dial", "addr", "peer:5101", "timeout", short), // the peer's policy forbids it
			ask("dial", "addr", peer+":1", "timeout", short),   // and so it is not refused either
			ask("dial", "addr", "wall:5100", "timeout", short), // the target's policy forbids it
			ask("dial", "addr", wall+":1", "timeout", short),   // likewise
			ask("udp", "addr", wall+":5102", "text", "hello", "timeout", short),
			ask("ping", "addr", wall, "timeout", short),
			ask("dial", "addr", r.c.IP+":8099", "timeout", short), // whom it is called by need not be whom it may call
		}
		// Nobody goes round by the other family.
		if six := scene.IPv6(w.Pods("app=peer")[0]); six != "" {
			allowed = append(allowed, ask("dial", "addr", "["+six+"]:5100", "timeout", long))
			denied = append(denied, ask("dial", "addr", "["+scene.IPv6(w.Pods("app=wall")[0])+"]:5100", "timeout", short))
		}
		questions := slices.Concat(allowed, denied)
		want := r.answers(r.original, r.originalPod, questions)
		for i, q := range questions {
			if got := strings.Contains(want[q.String()], `"ok":true`); got != (i < len(allowed)) && q.path != "lookup" {
				t.Fatalf("%s: the original's answer is %s", q, want[q.String()])
			}
		}
		r.swap()
		r.same(want, questions)
		if got := stranger.Do("dial", "addr", r.agentPod.Status.PodIP+":8080", "timeout", short); got.OK {
			t.Errorf("who has not the label reaches the process: %+v", got)
		}
		if got := stranger.Do("dial", "addr", "app:80", "timeout", short); got.OK {
			t.Errorf("who has not the label reaches the process by the Service: %+v", got)
		}
		if six := scene.IPv6(r.agentPod); six != "" {
			if got := stranger.Do("dial", "addr", "["+six+"]:8080", "timeout", short); got.OK {
				t.Errorf("who has not the label reaches the process by IPv6: %+v", got)
			}
		}
		r.c.Far("http://app").WaitLocal("local")
		r.end()
		r.c.Far("http://app").WaitLocal("original")
		w.WaitUnchanged()
	})
}

// wantsPolicies waits until the stranger is kept from the target. A cluster of the user's own
// may have a network that keeps nobody from anything: then there is nothing to test.
func wantsPolicies(t *testing.T, w *scene.World, stranger scene.Far) {
	t.Helper()
	tries := 0
	w.Eventually("the policies to hold", func() string {
		if !stranger.Do("dial", "addr", "app:80", "timeout", "2s").OK {
			return ""
		}
		if tries++; tries == 100 && !w.Lab.Embedded() {
			t.Skip("this cluster's network does not enforce NetworkPolicies (see its CNI plugin)")
		}
		return "a stranger reaches the target"
	})
}

// TestTargetAPIServerKeptOut has a network that keeps the API server's calls from pods, as some
// do where everything is denied by default: the tunnel goes another way, by the kubelet.
func TestTargetAPIServerKeptOut(t *testing.T) {
	parallel(t)
	if !stage.lab.Embedded() {
		t.Skip("the node's packet filter must be at hand: only the embedded cluster's is")
	}
	// The tunnel's port is one that nobody else here has: the default one is the target's own.
	const taken, tunnel = 15100, 15101
	for i, tc := range []struct{ name, verdict string }{
		{"silently", "drop"},
		{"with an answer", "reject with tcp reset"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := stage.lab.NewWorld(t)
			w.Apply(strings.Replace(webScene, "containerPort: 8080}]", fmt.Sprintf("containerPort: 8080}, {name: own, containerPort: %d}]", taken), 1))
			w.Scale("web", 1)
			c := w.NewClient()
			w.WaitAvailable()
			w.Freeze()
			// The kubelet's probes come from the same address, to the same port: they are for /readyz,
			// and the API server's upgrade is for "/ " (at the 32nd bit of what TCP carries).
			w.NodeRules(fmt.Sprintf("e2e_kept_out_%d", i), fmt.Sprintf(
				"\tchain out {\n\t\ttype filter hook output priority filter;\n\t\tip daddr 10.244.0.0/16 tcp dport %d @ih,32,16 0x2f20 counter %s\n\t}\n", tunnel, tc.verdict))
			run := w.Teleswap(append([]string{"swap", "web", "--"}, probe(w)...)...)
			t.Log(run.WaitStderr(`✓ +dial`))
			run.WaitSwapped()
			contains(t, "standard error", run.Stderr(), "by port-forward-") // -websocket, or -spdy if the agent did not listen yet when the first was tried
			far := c.Far("http://web")
			far.WaitLocal("local")
			far.Exit(0)
			run.WaitEnd(0)
			w.WaitUnchanged()
		})
	}
}
