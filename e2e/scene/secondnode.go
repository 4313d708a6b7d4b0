package scene

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	secondNode = "node2"
	// SecondTaint is on the second node, so that only the pods of who asked for it get there.
	SecondTaint = "teleswap.dev/second"
)

// SecondNode gives the embedded cluster a second node, on which a pod lands that tolerates SecondTaint. It is
// this test's alone until its end, so a test may drain it; it stays until the run's end. With a cluster of the
// user's own the test is skipped.
func (w *World) SecondNode() string {
	w.T.Helper()
	l := w.Lab
	if l.laptopNet == "" {
		w.T.Skip("needs the embedded cluster, to which it adds a node")
	}
	l.second.Lock()
	w.T.Cleanup(l.second.Unlock)
	// What the tests' images need not all be copied for.
	add := l.cluster(w.T.Context(), "node", "add", secondNode, "--taint", SecondTaint+"=:NoSchedule", "--image", l.Images.Agent, "--image", l.Images.Probe)
	l.hasSecond = true // also one that is half made
	w.must(runQuietly(add), "add a node to the cluster")
	w.waitUntainted(secondNode)
	return secondNode
}

// waitUntainted waits until the node has SecondTaint alone: Kubernetes takes its own taints of a node that was not ready or cordoned
// away only a while after that, and until then no pod lands there.
func (w *World) waitUntainted(node string) {
	w.T.Helper()
	w.Eventually("the taints of node "+node+" to go", func() string {
		n, err := w.Lab.Kube.CoreV1().Nodes().Get(w.T.Context(), node, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, taint := range n.Spec.Taints {
			if taint.Key != SecondTaint {
				return taint.ToString()
			}
		}
		return ""
	})
}

// removeSecond takes the second node away, if the run has added it.
func (l *Lab) removeSecond(ctx context.Context) error {
	if !l.hasSecond {
		return nil
	}
	if err := runQuietly(l.cluster(ctx, "node", "remove", secondNode)); err != nil {
		return fmt.Errorf("take the second node away: %w", err)
	}
	return nil
}

// Kubectl runs it as the cluster's administrator, in the world's namespace, and returns its output.
func (w *World) Kubectl(args ...string) string {
	w.T.Helper()
	program := "kubectl"
	if w.Lab.Kubectl != "" {
		program = w.Lab.Kubectl
	}
	cmd := exec.CommandContext(w.T.Context(), program, append([]string{"--kubeconfig", w.Lab.kubeconfig, "--namespace", w.Namespace}, args...)...)
	cmd.Env = append(os.Environ(), "KUBERC=off", "KUBECACHEDIR="+w.dir)
	out, err := cmd.CombinedOutput()
	w.must(err, "kubectl %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// Drain does that to the pods of the world that a selector finds, and lets none onto the node until uncordon is
// called, at the test's end at the latest. When that has returned, pods can land there again.
func (w *World) Drain(node, selector string) (uncordon func()) {
	w.T.Helper()
	unmark := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.T.Context()), patience)
		defer cancel()
		_, err := w.Lab.Kube.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{})
		if err != nil {
			w.T.Errorf("uncordon %s: %v", node, err)
		}
	})
	w.T.Cleanup(unmark)
	w.Kubectl("drain", node, "--ignore-daemonsets", "--pod-selector="+selector, "--timeout=60s")
	return func() {
		unmark()
		w.waitUntainted(node)
	}
}
