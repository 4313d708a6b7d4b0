package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/manifests"
)

// Agent is what Teleswap puts into the cluster for one swap.
type Agent struct {
	Session    string            // id of the session
	Name       string            // of the Deployment or Pod, and of the Secret: AgentName
	Image      string            // its entrypoint is the agent
	PullPolicy string            // "", "Always", "IfNotPresent", "Never"; empty leaves it to Kubernetes
	Keys       map[string][]byte // files of the Secret, by name
}

// AgentPod is the agent's pod.
type AgentPod struct {
	Namespace string
	Name      string
	IP        netip.Addr
	Node      string
	Mounts    []Mount // of the target's container
}

// AgentName is the name of the agent's Deployment and Secret: TARGET-teleswap-SESSION,
// shortened to 63 characters.
func AgentName(target, session string) string { return manifests.AgentName(target, session) }

func (a Agent) input(t *Target) manifests.AgentInput {
	in := manifests.AgentInput{
		Target: t.work.input(), Container: t.Container, Session: a.Session, Name: a.Name, Image: a.Image,
		PullPolicy: corev1.PullPolicy(a.PullPolicy), TunnelPort: t.TunnelPort, Listen: t.Listen, ListenUDP: t.ListenUDP,
		KeysSecret: a.Name, SkipInit: t.skipInit, PodName: t.work.podName, Node: t.node, NoHostPorts: t.Kind.parks(), New: t.New,
	}
	for _, p := range t.Loopback {
		if p.UDP {
			in.LoopbackUDP = append(in.LoopbackUDP, p.Number)
		} else {
			in.Loopback = append(in.Loopback, p.Number)
		}
	}
	if t.Kind == DaemonSet {
		// Until the places are changed: see takeSlot.
		yes := true
		in.Controller = &metav1.OwnerReference{
			APIVersion: Pod.apiVersion(), Kind: string(Pod), Name: t.original.meta.Name, UID: t.original.meta.UID, Controller: &yes,
		}
	}
	return in
}

// CreateSecret makes the Secret with the agent's keys, owned by the target. One that
// this session has made already is fine.
func (c *Cluster) CreateSecret(ctx context.Context, t *Target, a Agent) error {
	c = c.In(t.Namespace)
	return c.putSecret(ctx, manifests.KeysSecret(a.input(t), a.Keys))
}

func (c *Cluster) putSecret(ctx context.Context, secret *corev1.Secret) error {
	err := c.change(ctx, "make secret/"+secret.Name, func(ctx context.Context) error {
		_, err := c.client.CoreV1().Secrets(c.namespace).Create(ctx, secret, metav1.CreateOptions{})
		return err
	})
	if apierrors.IsAlreadyExists(err) {
		return nil // the name holds the session's id
	}
	return err
}

// CreateAgent makes the agent's Deployment, owned by the target; or a Pod, for targets
// whose pods no Deployment could stand for. One that this session
// has made already is fine. What the cluster's admission refuses is a *PodStuckError.
func (c *Cluster) CreateAgent(ctx context.Context, t *Target, a Agent) error {
	c = c.In(t.Namespace)
	var err error
	owner := Object{Kind: Deployment, Name: a.Name}
	if t.Kind.scales() {
		err = c.createDeployment(ctx, a.input(t))
	} else {
		owner.Kind = Pod
		err = c.createPod(ctx, a.input(t))
	}
	if apierrors.IsAlreadyExists(err) {
		return nil // the name holds the session's id
	}
	return c.refused(owner, t.Kind, err)
}

// refused explains what admission says of an object of ours.
func (c *Cluster) refused(o Object, target Kind, err error) error {
	if apierrors.IsForbidden(err) && !isExplained(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
		return &PodStuckError{
			Namespace: c.namespace, Owner: o.String(), Reason: "refused", Message: err.Error(), Hint: refusalHint(err.Error(), target), Err: err,
		}
	}
	return err
}

func (c *Cluster) createDeployment(ctx context.Context, in manifests.AgentInput) error {
	deployment, err := manifests.Agent(in)
	if err != nil {
		return fmt.Errorf("make the agent: %w", err)
	}
	return c.change(ctx, "make deployment/"+deployment.Name, func(ctx context.Context) error {
		_, err := c.client.AppsV1().Deployments(c.namespace).Create(ctx, deployment, metav1.CreateOptions{})
		return err
	})
}

func (c *Cluster) createPod(ctx context.Context, in manifests.AgentInput) error {
	pod, err := manifests.AgentPod(in)
	if err != nil {
		return fmt.Errorf("make the agent: %w", err)
	}
	return c.change(ctx, "make pod/"+pod.Name, func(ctx context.Context) error {
		_, err := c.client.CoreV1().Pods(c.namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
}

// DeleteAgent deletes the agent's Deployment or Pod and waits until it, its ReplicaSets and
// its pods are gone: the pods drain first, for some 30 s at most. A pod whose node does not answer is waited for until half a minute
// after its grace, and then told to notify. Nothing to delete is success. It repeats until ctx ends while the API server is away. notify may be nil.
func (c *Cluster) DeleteAgent(ctx context.Context, name string, notify Notify) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	err := c.insistChange(ctx, "delete deployment/"+name, func(ctx context.Context) error {
		return c.client.AppsV1().Deployments(c.namespace).Delete(ctx, name, options)
	})
	if apierrors.IsNotFound(err) || isDenied(err) {
		// A Pod, then. Whoever swaps those alone need not be allowed to delete Deployments.
		err = c.insistChange(ctx, "delete pod/"+name, func(ctx context.Context) error {
			return c.client.CoreV1().Pods(c.namespace).Delete(ctx, name, options)
		})
	}
	if err != nil && !apierrors.IsNotFound(err) && !isDenied(err) {
		return err
	}
	return c.sweep(ctx, name, notify)
}

// sweep takes away what the Deployment or Pod of an agent has left, and waits until it is gone.
func (c *Cluster) sweep(ctx context.Context, name string, notify Notify) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	// The garbage collector would do the rest, but takes its time. The order matters:
	// a ReplicaSet without its Deployment makes no new one, and a pod without its
	// ReplicaSet is not made again.
	selector := metav1.ListOptions{LabelSelector: sessionSelector(name)}
	if err := c.once(ctx, func(ctx context.Context) error {
		return c.client.AppsV1().ReplicaSets(c.namespace).DeleteCollection(ctx, options, selector)
	}); err != nil {
		c.log.Debug("leaving the agent's replicaset to the garbage collector", "agent", name, "err", err)
	} else if err := c.once(ctx, func(ctx context.Context) error {
		return c.client.CoreV1().Pods(c.namespace).DeleteCollection(ctx, options, selector)
	}); err != nil {
		c.log.Debug("leaving the agent's pod to the garbage collector", "agent", name, "err", err)
	}
	sets := c.replicaSetsLabelled(selector.LabelSelector)
	makers := func() bool { return !sets.synced || len(sets.items) > 0 }
	return c.waitDrained(ctx, name, notify, c.podsLabelled(selector.LabelSelector), makers, sets)
}

// strandedAfter is how long a pod may outlast its grace: the kubelet has volumes to unmount, and may be slow.
const strandedAfter = 30 * time.Second

// waitDrained waits until the pods of an agent are gone, and makers, which the other sources feed, says that none is left that makes more.
// A pod that nobody removes counts as gone, and is told.
func (c *Cluster) waitDrained(ctx context.Context, name string, notify Notify, pods *objects[*corev1.Pod], makers func() bool, others ...source) error {
	var lost []*corev1.Pod
	judge := func() verdict {
		var left map[types.UID]*corev1.Pod
		var again time.Duration
		left, lost, again = stranded(pods.items, time.Now())
		if pods.synced && len(left) == 0 && !makers() {
			return verdict{done: true}
		}
		return verdict{note: draining(left), again: again}
	}
	if err := c.wait(ctx, "wait for the agent "+name+" to be gone", notify, judge, append(others, pods)...); err != nil {
		return err
	}
	for _, pod := range lost {
		c.log.Warn("a pod is not waited for any longer", "pod", pod.Name, "node", pod.Spec.NodeName, "ends", pod.DeletionTimestamp)
		if notify != nil {
			notify(fmt.Sprintf("pod %s is not waited for any longer: its node %s does not answer, as it seems; Kubernetes removes it when the node is back, "+
				"or `kubectl delete pod %[1]s --namespace %s --force` does", pod.Name, pod.Spec.NodeName, pod.Namespace))
		}
	}
	return nil
}

// stranded tells the pods that are left to wait for from those that are lost: well past the end of their grace, which is what a
// deletionTimestamp is (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/). A pod is removed by its
// node's kubelet; while that is away nobody else does it as long as the Node object stays. again is after which time the next of the
// left ones is lost; 0: none of them is on its way out.
//
// now is this machine's clock, a deletionTimestamp the API server's. Where this one is ahead a pod that still drains is let go of too
// early, where it is behind too late, perhaps not before an undo's next try. Nothing but the end of a wait hangs on it: the pod has
// been deleted, and Kubernetes still lets it drain and takes it away; what needs its place (a volume, a port) waits in Kubernetes.
func stranded(pods map[types.UID]*corev1.Pod, now time.Time) (left map[types.UID]*corev1.Pod, lost []*corev1.Pod, again time.Duration) {
	left = make(map[types.UID]*corev1.Pod, len(pods))
	for uid, pod := range pods {
		if pod.DeletionTimestamp == nil {
			left[uid] = pod
			continue
		}
		until := pod.DeletionTimestamp.Add(strandedAfter).Sub(now)
		switch {
		case until <= 0:
			lost = append(lost, pod)
			continue
		case again == 0 || until < again:
			again = until
		}
		left[uid] = pod
	}
	slices.SortFunc(lost, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return left, lost, again
}

// draining is a note of the first pod that is still there; empty: of none. Of several each is told once, as the one before it has
// gone.
func draining(pods map[types.UID]*corev1.Pod) string {
	if len(pods) == 0 {
		return ""
	}
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	return "pod " + slices.Min(names) + " drains"
}

// DeleteSecret deletes the Secret of the agent. Nothing to delete is success. It
// repeats until ctx ends while the API server is away.
func (c *Cluster) DeleteSecret(ctx context.Context, name string) error {
	err := c.insistChange(ctx, "delete secret/"+name, func(ctx context.Context) error {
		return c.client.CoreV1().Secrets(c.namespace).Delete(ctx, name, metav1.DeleteOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
