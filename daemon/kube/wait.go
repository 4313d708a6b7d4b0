package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/manifests"
)

// eventsDelay is how long a pod may take before its events are looked at.
const eventsDelay = 2 * time.Second

// WaitAgentRunning waits until the agent's container runs and its pod has an address.
// It fails at once with *PodStuckError where waiting longer cannot help; what may
// pass (no node has room yet, a volume is not mounted yet) is told to notify. An agent
// that somebody has deleted is a *NotFoundError.
func (c *Cluster) WaitAgentRunning(ctx context.Context, name string, notify Notify) (AgentPod, error) {
	return c.waitAgent(ctx, name, notify, agentRuns)
}

// WaitAgentReady waits until the agent's pod is Ready: until the local process
// listens. It fails as WaitAgentRunning does.
func (c *Cluster) WaitAgentReady(ctx context.Context, name string, notify Notify) (AgentPod, error) {
	return c.waitAgent(ctx, name, notify, isReady)
}

func (c *Cluster) waitAgent(ctx context.Context, name string, notify Notify, enough func(*corev1.Pod, string) bool) (AgentPod, error) {
	deployment, pods := c.deploymentNamed(name), c.podsLabelled(sessionSelector(name))
	events := c.podWarnings(eventsDelay)
	var agent AgentPod
	judge := func() verdict {
		d, found := deployment.only()
		if !found {
			if deployment.synced {
				return verdict{err: c.gone(name, nil)}
			}
			return verdict{}
		}
		pod := newest(pods.items)
		if pod == nil {
			return judgeNoPod(d)
		}
		container := agentContainer(d)
		if v := judgePod(pod, name, container, events.items); v.err != nil || !enough(pod, container) {
			return v
		}
		ip, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil {
			return verdict{} // not reported yet
		}
		agent = AgentPod{Namespace: pod.Namespace, Name: pod.Name, IP: ip, Node: pod.Spec.NodeName, Mounts: mounts(pod, container)}
		return verdict{done: true}
	}
	err := c.wait(ctx, "wait for the agent deployment/"+name, notify, judge, deployment, pods, events)
	var stuck *PodStuckError
	if errors.As(err, &stuck) {
		c.addEvent(ctx, stuck)
	}
	return agent, err
}

// gone says that a Deployment which was there is not there any more.
func (c *Cluster) gone(name string, err error) error {
	return &NotFoundError{What: "deployment", Name: name, Namespace: c.namespace, Hint: "it has been deleted meanwhile", Err: err}
}

func sessionSelector(agent string) string {
	return manifests.SessionKey + "=" + manifests.SessionOf(agent)
}

// agentContainer is the container of the agent's Deployment that the agent runs in.
func agentContainer(d *appsv1.Deployment) string {
	for _, container := range d.Spec.Template.Spec.Containers {
		if slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == manifests.KeysDir }) {
			return container.Name
		}
	}
	return ""
}

// newest is the pod that counts: the last one made that is not going away.
func newest(pods map[types.UID]*corev1.Pod) *corev1.Pod {
	var out *corev1.Pod
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		if out == nil || out.CreationTimestamp.Before(&pod.CreationTimestamp) {
			out = pod
		}
	}
	return out
}

// WaitEndpoints waits until the pod is a ready endpoint of each of the Services: until
// those who route know that it is there. Where the user may not see EndpointSlices it
// returns nil at once. ctx bounds it.
func (c *Cluster) WaitEndpoints(ctx context.Context, services []string, pod AgentPod) error {
	if len(services) == 0 {
		return nil
	}
	slicesOf := c.endpointSlices(services)
	judge := func() verdict {
		known := make(map[string]bool)
		for _, slice := range slicesOf.items {
			for _, endpoint := range slice.Endpoints {
				ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
				if ready && (slices.Contains(endpoint.Addresses, pod.IP.String()) || endpoint.TargetRef != nil && endpoint.TargetRef.Name == pod.Name) {
					known[slice.Labels["kubernetes.io/service-name"]] = true
				}
			}
		}
		return verdict{done: len(known) == len(services)}
	}
	err := c.wait(ctx, "wait for the Services to know the agent", nil, judge, slicesOf)
	var permission *MissingPermissionError
	if errors.As(err, &permission) {
		c.log.Debug("endpoints cannot be seen", "err", err)
		return nil
	}
	return err
}

// Scale sets the target's replicas through the scale subresource, which cannot touch
// the pod template. It repeats until ctx ends while the API server is away. A target
// that does not exist is a *NotFoundError.
func (c *Cluster) Scale(ctx context.Context, name string, replicas int32) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	err := c.insist(ctx, "scale "+targetName(name), func(ctx context.Context) error {
		_, err := c.client.AppsV1().Deployments(c.namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "scale")
		return err
	})
	if apierrors.IsNotFound(err) {
		return c.gone(name, err)
	}
	return err
}

// WaitAvailable waits until n pods of the target itself (never the agent's) are Ready
// and the Deployment counts them as available, and returns the addresses of the pods
// that are Ready. Should somebody scale the target below n meanwhile, that is enough.
// What keeps pods from becoming Ready is told to notify and is no error: it may pass.
func (c *Cluster) WaitAvailable(ctx context.Context, name string, n int32, notify Notify) ([]netip.Addr, error) {
	var selector string
	err := c.insist(ctx, "read "+targetName(name), func(ctx context.Context) error {
		d, err := c.client.AppsV1().Deployments(c.namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			selector = metav1.FormatLabelSelector(d.Spec.Selector) + ",!" + manifests.SessionKey
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, c.gone(name, err)
	}
	if err != nil {
		return nil, err
	}
	deployment, pods := c.deploymentNamed(name), c.podsLabelled(selector)
	var ready []netip.Addr
	judge := func() verdict {
		if !deployment.synced || !pods.synced {
			return verdict{}
		}
		d, found := deployment.only()
		if !found {
			return verdict{err: c.gone(name, nil)}
		}
		ready = readyAddrs(pods.items)
		enough := min(n, replicasOf(d))
		if d.Status.ObservedGeneration >= d.Generation && d.Status.AvailableReplicas >= enough && len(ready) >= int(enough) {
			return verdict{done: true}
		}
		return verdict{note: slowness(d, pods.items)}
	}
	err = c.wait(ctx, "wait for the pods of "+targetName(name), notify, judge, deployment, pods)
	if err != nil {
		return nil, err
	}
	return ready, nil
}

// readyAddrs are the addresses of the pods that are Ready, sorted.
func readyAddrs(pods map[types.UID]*corev1.Pod) []netip.Addr {
	var addrs []netip.Addr
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || !isReady(pod, "") {
			continue
		}
		if addr, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
