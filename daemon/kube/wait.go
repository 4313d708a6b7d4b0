package kube

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	deployment, pods := c.deploymentsLabelled(sessionSelector(name)), c.podsLabelled(sessionSelector(name))
	events := c.podWarnings(eventsDelay)
	var agent AgentPod
	judge := func() verdict {
		if !deployment.synced || !pods.synced {
			return verdict{}
		}
		d, found := deployment.only()
		pod := newest(pods.items)
		switch {
		case pod == nil && !found:
			return verdict{err: &NotFoundError{What: "agent", Name: name, Namespace: c.namespace, Hint: "it has been deleted meanwhile"}}
		case pod == nil:
			return judgeNoPod(d)
		}
		container := agentContainer(pod.Spec)
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
	err := c.wait(ctx, "wait for the agent "+name, notify, judge, deployment, pods, events)
	var stuck *PodStuckError
	if errors.As(err, &stuck) {
		c.addEvent(ctx, stuck)
	}
	return agent, err
}

// gone says that an object which was there is not there any more.
func (c *Cluster) gone(o Object, err error) error {
	return &NotFoundError{What: o.Kind.String(), Name: o.Name, Namespace: c.namespace, Hint: "it has been deleted meanwhile", Err: err}
}

func sessionSelector(agent string) string {
	return manifests.SessionKey + "=" + manifests.SessionOf(agent)
}

// agentContainer is the container of the agent's pod that the agent runs in.
func agentContainer(spec corev1.PodSpec) string {
	for _, container := range spec.Containers {
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

// WaitAvailable waits until n pods of the target itself (never the agent's) are Ready
// and its controller counts them as available, and returns the addresses of the pods
// that are Ready. Should somebody scale the target below n meanwhile, that is enough.
// What keeps pods from becoming Ready is told to notify and is no error: it may pass.
func (c *Cluster) WaitAvailable(ctx context.Context, o Object, n int32, notify Notify) ([]netip.Addr, error) {
	first, err := c.read(ctx, o)
	switch {
	case apierrors.IsNotFound(err):
		return nil, c.gone(o, err)
	case err != nil:
		return nil, err
	case o.Kind.runsOnce():
		return nil, nil // its pods serve nobody
	}
	source, pods := c.workloadNamed(o), c.podsLabelled(selectorText(first.selector))
	if o.Kind.parks() {
		name := o.Pod
		if o.Kind == Pod {
			name = o.Name
		}
		pods = c.podNamed(name)
	}
	var ready []netip.Addr
	judge := func() verdict {
		if !source.known() || !pods.synced {
			return verdict{}
		}
		w := source.now()
		if w == nil {
			return verdict{err: c.gone(o, nil)}
		}
		ready = readyAddrs(pods.items)
		if o.Kind.parks() && len(pods.items) == 0 {
			return verdict{done: true} // ended meanwhile: its controller, if any, makes another
		}
		enough := min(n, w.replicas)
		counted := o.Kind.parks() || w.observed >= w.meta.Generation && w.available >= enough
		if counted && len(ready) >= int(enough) {
			return verdict{done: true}
		}
		return verdict{note: slowness(w, pods.items)}
	}
	err = c.wait(ctx, "wait for the pods of "+o.String(), notify, judge, source, pods)
	if err != nil {
		return nil, err
	}
	return ready, nil
}

// WaitGone waits until the last pod of the target itself is gone, not only on its way: until
// what its pods held is free (volumes, ports of nodes, a quota's share). ctx bounds it. Pods that have
// ended hold nothing; those of a CronJob are runs that go on.
func (c *Cluster) WaitGone(ctx context.Context, o Object, notify Notify) error {
	if o.Kind == CronJob {
		return nil
	}
	first, err := c.read(ctx, o)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	pods := c.podsLabelled(selectorText(first.selector))
	judge := func() verdict {
		var left []string
		for _, pod := range pods.items {
			if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
				left = append(left, pod.Name)
			}
		}
		if len(left) == 0 {
			return verdict{done: pods.synced}
		}
		return verdict{note: "still there: pod " + slices.Min(left)}
	}
	return c.wait(ctx, "wait for the end of the pods of "+o.String(), notify, judge, pods)
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
