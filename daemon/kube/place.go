package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/teleswap/teleswap/manifests"
)

// choosePod finds the pod whose place is taken, where it is one in particular.
func (c *Cluster) choosePod(ctx context.Context, ref Ref, found surroundings, t *Target) error {
	switch t.Kind {
	case Pod:
		t.Pod, t.original, t.Available = t.Name, t.work, t.work.available
	case DaemonSet:
		pods, err := c.podsOf(ctx, t.work)
		if err != nil {
			return err
		}
		pod, err := daemonPod(t.work.object(), pods, found.pod, ref.Node)
		if err != nil {
			return err
		}
		t.Pod, t.original, t.node = pod.Name, ofPod(pod), pod.Spec.NodeName
		t.Replicas, t.Available = 1, t.original.available
		// The pod has what the controller adds to the template: tolerations, and the
		// labels by which it tells the revision.
		own := *t.work
		own.template = manifests.PodTemplate(pod)
		own.template.Spec.Hostname = pod.Spec.Hostname // its name was made up for it
		t.work = &own
		t.Notes = append(t.Notes, fmt.Sprintf("the pod on node %s (%s) is the one that is swapped; --node chooses another", t.node, pod.Name))
	case Deployment, StatefulSet, ReplicaSet, CronJob, Job:
	}
	if ref.Node != "" && t.Kind != DaemonSet {
		return &UnsupportedError{
			Target: t.Object().String(), Reason: "--node chooses a pod of a DaemonSet, and this is none",
			Hint: "leave --node away: the scheduler finds a node for the agent",
		}
	}
	return nil
}

// podsOf are the pods that belong to a workload, by name.
func (c *Cluster) podsOf(ctx context.Context, w *workload) ([]*corev1.Pod, error) {
	var pods []*corev1.Pod
	err := c.call(ctx, "list pods", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorText(w.selector)})
		if err != nil {
			return err
		}
		pods = pods[:0]
		for i := range list.Items {
			pod := &list.Items[i]
			owner := metav1.GetControllerOf(pod)
			if pod.DeletionTimestamp == nil && (w.kind == Deployment || owner != nil && owner.UID == w.meta.UID) {
				pods = append(pods, pod)
			}
		}
		return nil
	})
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, err
}

// daemonPod is the pod of a DaemonSet that is meant: the one that was named, the one on
// the node that was named, or else the first Ready one by the nodes' names.
func daemonPod(o Object, pods []*corev1.Pod, name, node string) (*corev1.Pod, error) {
	pods = slices.Clone(pods)
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	var nodes []string
	for _, pod := range pods {
		nodes = append(nodes, pod.Spec.NodeName)
		switch {
		case node != "" && pod.Spec.NodeName == node,
			node == "" && name != "" && pod.Name == name,
			node == "" && name == "" && isReady(pod, ""):
			return pod, nil
		}
	}
	if node != "" {
		return nil, &NotFoundError{
			What: "a pod of " + o.String() + " on node", Name: node, Near: nearest(node, nodes), Names: few(nodes),
			Hint: "--node names the node whose pod is to be swapped; `kubectl get pods -o wide` shows where they run",
		}
	}
	return nil, &UnsupportedError{
		Target: o.String(), Reason: "none of its pods is Ready, so there is none whose place could be taken",
		Hint: "see `kubectl get pods -o wide`, or choose one by --node",
	}
}

// place finds out whether the agent's pod can stand beside the original, and where.
func (c *Cluster) place(ctx context.Context, ref Ref, t *Target) error {
	modes, err := c.claimModes(ctx, t.work)
	if err != nil {
		return err
	}
	var why string
	for name, mode := range modes {
		if mode == corev1.ReadWriteOncePod {
			why = fmt.Sprintf("only one pod at a time may mount volume claim %s (ReadWriteOncePod)", name)
		}
	}
	port, container := hostPort(t.work.template.Spec)
	switch {
	case t.Kind.parks() && ref.ScaleFirst:
		return &UnsupportedError{
			Target: t.Object().String(), Reason: "--order scale-first asks for the original to go first, and a " + t.Kind.String() + "'s pod is put aside without being ended",
			Hint: "leave --order away",
		}
	case t.Kind.parks() && why != "":
		return &UnsupportedError{Target: t.Object().String(), Reason: "the original keeps running, and " + why, Hint: "swap what can be scaled to 0 instead"}
	case t.Kind.parks() && port != 0:
		t.Notes = append(t.Notes, fmt.Sprintf("port %d of the node (hostPort of container %s) stays with the original pod, which keeps running; Services lead to the local process", port, container))
	case port != 0 && why == "":
		why = fmt.Sprintf("container %s takes port %d of the node (hostPort)", container, port)
	}
	if why != "" && !t.Kind.parks() && !t.Kind.runsOnce() && !ref.ScaleFirst {
		t.ScaleFirst = true
		t.Notes = append(t.Notes, why+", so the original is scaled to 0 before the agent comes: nobody answers in between (--order scale-first)")
	}
	if t.node == "" && !t.ScaleFirst && onOneNode(modes) {
		t.node = t.original.nodeOr("")
		if t.original == nil {
			pods, err := c.podsOf(ctx, t.work)
			if err != nil {
				return err
			}
			for _, pod := range pods {
				t.node = cmp.Or(t.node, pod.Spec.NodeName)
			}
		}
	}
	return nil
}

func (w *workload) nodeOr(other string) string {
	if w == nil || w.node == "" {
		return other
	}
	return w.node
}

// onOneNode reports a claim that one node at a time may mount.
func onOneNode(modes map[string]corev1.PersistentVolumeAccessMode) bool {
	for _, mode := range modes {
		if mode == corev1.ReadWriteOnce {
			return true
		}
	}
	return false
}

// claimModes are the access modes of the claims that the pods mount: of each the one
// that allows most. Claims that cannot be read are left out.
func (c *Cluster) claimModes(ctx context.Context, w *workload) (map[string]corev1.PersistentVolumeAccessMode, error) {
	modes := map[string]corev1.PersistentVolumeAccessMode{}
	for _, volume := range w.template.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		name := volume.PersistentVolumeClaim.ClaimName
		err := c.call(ctx, "read persistentvolumeclaim/"+name, func(ctx context.Context) error {
			claim, err := c.client.CoreV1().PersistentVolumeClaims(c.namespace).Get(ctx, name, metav1.GetOptions{})
			if err == nil {
				modes[name] = mostOpen(claim.Spec.AccessModes)
			}
			return err
		})
		switch {
		case isDenied(err), isMissing(err):
			c.log.Debug("a claim cannot be read", "claim", name, "err", err)
		case err != nil:
			return nil, err
		}
	}
	return modes, nil
}

func mostOpen(modes []corev1.PersistentVolumeAccessMode) corev1.PersistentVolumeAccessMode {
	for _, mode := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadOnlyMany, corev1.ReadWriteOnce} {
		if slices.Contains(modes, mode) {
			return mode
		}
	}
	if len(modes) == 0 {
		return ""
	}
	return modes[0]
}

// hostPort is a port of the node that a container takes; zero: none does.
func hostPort(spec corev1.PodSpec) (port int32, container string) {
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				return p.HostPort, c.Name
			}
		}
	}
	return 0, ""
}

// labelsToPark are the labels by which a pod is found: by its DaemonSet, by Services, and by
// NetworkPolicies. Without them it is nobody's, and keeps running.
func (c *Cluster) labelsToPark(ctx context.Context, t *Target, services []corev1.Service) map[string]string {
	own := t.original.meta.Labels
	keys := map[string]bool{}
	take := func(s *metav1.LabelSelector) {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if s == nil || err != nil || !selector.Matches(labels.Set(own)) {
			return
		}
		for key := range s.MatchLabels {
			keys[key] = true
		}
		for _, e := range s.MatchExpressions {
			keys[e.Key] = true
		}
	}
	take(t.work.selector)
	for i := range services {
		if selects(&services[i], own) {
			take(&metav1.LabelSelector{MatchLabels: services[i].Spec.Selector})
		}
	}
	var policies []networkingv1.NetworkPolicy
	err := c.call(ctx, "list networkpolicies", func(ctx context.Context) error {
		list, err := c.client.NetworkingV1().NetworkPolicies(c.namespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			policies = list.Items
		}
		return err
	})
	if err != nil {
		c.log.Debug("network policies cannot be seen", "err", err)
	}
	for _, p := range policies {
		take(&p.Spec.PodSelector)
		for _, rule := range p.Spec.Ingress {
			for _, peer := range rule.From {
				take(peer.PodSelector)
			}
		}
		for _, rule := range p.Spec.Egress {
			for _, peer := range rule.To {
				take(peer.PodSelector)
			}
		}
	}
	parked := map[string]string{}
	for key := range keys {
		if value, has := own[key]; has {
			parked[key] = value
		}
	}
	return parked
}
