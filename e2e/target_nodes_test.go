package e2e

import (
	"net"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// onSecond is a line of a pod's spec that lets it onto the second node.
const onSecond = "tolerations: [{key: " + scene.SecondTaint + ", operator: Exists}]\n"

// daemonPods are the pods of the DaemonSet web, by node.
func daemonPods(t *testing.T, w *scene.World) map[string]corev1.Pod {
	t.Helper()
	waitPods(w, "app=web", 2)
	byNode := map[string]corev1.Pod{}
	for _, p := range w.Pods("app=web") {
		byNode[p.Spec.NodeName] = p
	}
	if len(byNode) != 2 {
		t.Fatalf("the pods are on %d nodes, want 2", len(byNode))
	}
	return byNode
}

// TestTargetDaemonSetNode has a DaemonSet on two nodes. The pod of one is swapped, the other's is not touched.
func TestTargetDaemonSetNode(t *testing.T) {
	w := newWorld(t)
	second := w.SecondNode()
	text := kindScene("apps/v1", "DaemonSet", "  selector: {matchLabels: {app: web}}\n")
	w.Apply(strings.Replace(text, "      containers:", "      "+onSecond+"      containers:", 1))
	c := w.NewClient()
	before := daemonPods(t, w)
	c.Far("http://web").WaitLocal("original")
	w.Freeze()
	first := w.Pods("app=client")[0].Spec.NodeName
	for _, tc := range []struct {
		name, node, other string
		flags             []string
	}{
		{"the node that is named", second, first, []string{"--node", second}},
		{"the other one", first, second, []string{"--node", first}},
		// The first by name, and a line says so.
		{"none is named", first, second, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"swap", "ds/web"}, tc.flags...)
			run := w.Teleswap(append(append(args, "--"), probe(w)...)...)
			run.WaitSwapped()
			agents := w.Pods(scene.SessionLabel)
			if len(agents) != 1 || agents[0].Spec.NodeName != tc.node {
				t.Fatalf("%d agent pods, want one on node %s: %+v", len(agents), tc.node, agents)
			}
			contains(t, "standard error", run.Stderr(), "the pod on node "+tc.node+" ("+before[tc.node].Name+") is the one that is swapped")
			c.Far("http://" + net.JoinHostPort(agents[0].Status.PodIP, "8080")).WaitLocal("local")
			c.Far("http://" + net.JoinHostPort(before[tc.other].Status.PodIP, "8080")).WaitLocal("original")
			if p := onePod(t, w, before[tc.other].Name); p.UID != before[tc.other].UID || p.Labels["app"] != "web" || metav1.GetControllerOf(&p) == nil || !scene.Ready(p) {
				t.Errorf("the pod on node %s is not as it was: %+v", tc.other, p)
			}
			w.Output("leave", "web")
			run.Wait()
			w.WaitUnchanged()
			for node, p := range daemonPods(t, w) {
				if p.UID != before[node].UID {
					t.Errorf("the pod on node %s is %s, want %s as before", node, p.Name, before[node].Name)
				}
			}
		})
	}
	refused(t, w.Teleswap("swap", "ds/web", "--node", "nowhere", "--", "sleep", "9"), 2, "nowhere", first, second)
}

// TestTargetOtherNode has a target that prefers the second node, and swaps it there. Then the node is drained: the
// process is told to end, and the original runs on the other node.
func TestTargetOtherNode(t *testing.T) {
	w := newWorld(t)
	second := w.SecondNode()
	preferred := onSecond + `      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [` + second + `]}]}
`
	w.Apply(strings.NewReplacer(
		"replicas: 2", "replicas: 1",
		"terminationGracePeriodSeconds: 10", "terminationGracePeriodSeconds: 4",
		"      containers:", "      "+preferred+"      containers:",
	).Replace(webScene))
	c := w.NewClient()
	w.WaitAvailable()
	if node := w.Pods("app=web")[0].Spec.NodeName; node != second {
		t.Fatalf("the target is on node %s, want %s", node, second)
	}
	w.Freeze()
	run, far := swapWeb(w, c)
	agent := w.Pods(scene.SessionLabel)[0]
	if agent.Spec.NodeName != second {
		t.Fatalf("the agent's pod is on node %s, want %s", agent.Spec.NodeName, second)
	}
	// Both ways between the nodes, with the true addresses, in each family that there is.
	for agentIP, clientIP := range map[string]string{agent.Status.PodIP: c.IP, scene.IPv6(agent): c.IP6} {
		if clientIP == "" {
			continue
		}
		in := c.Far("http://" + net.JoinHostPort(agentIP, "8080")).WaitLocal("local")
		if host, _, err := net.SplitHostPort(in.Peer); err != nil || host != clientIP {
			t.Errorf("called from the other node the process sees %s, want the client's %s (%v)", in.Peer, clientIP, err)
		}
		out := far.Do("get", "url", "http://"+net.JoinHostPort(clientIP, "8099")+"/self")
		if from := `"peer":"` + net.JoinHostPort(agentIP, ""); !strings.Contains(out.Body, from) {
			t.Errorf("calling the other node, the process is seen as %s (%s), want %s", out.Body, out.Error, from)
		}
	}

	// Of other worlds there is nobody on it; of this one, the agent's pod.
	uncordon := w.Drain(second, "app=web")
	run.WaitEnd(1)
	contains(t, "standard error", run.Stderr(), "! pod "+agent.Name+" was told to end: it was deleted, or its node is being drained; the process has 4.0s to end", "restored:")
	if n := strings.Count(run.Stdout()+run.Stderr(), "signal terminated"); n != 1 {
		t.Errorf("the process got SIGTERM %d times, want once; standard output %q", n, run.Stdout())
	}
	c.Far("http://web").WaitLocal("original")
	w.WaitAvailable()
	original := w.Pods("app=web")
	if len(original) != 1 || original[0].Spec.NodeName == second {
		t.Fatalf("after the drain: %d pods, want one, on the other node: %+v", len(original), original)
	}
	// Everything else is as it was, as is seen when the pod is back on the node of its choice.
	uncordon()
	w.Kubectl("delete", "pod", original[0].Name)
	w.WaitUnchanged()
}
