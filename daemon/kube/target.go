package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ref names a target as the user did, and says what the user wants of it.
type Ref struct {
	Namespace string // empty: the cluster's namespace
	Kind      string // as ParseKind takes it; empty: whatever kind has the name
	Name      string
	Container string // empty: chosen by Resolve

	Node       string // of a DaemonSet's pod; empty: that of its first Ready pod
	SkipInit   bool   // the agent's pod does without the init containers
	ScaleFirst bool   // the originals go before the agent comes

	New            bool   // there is no target: a Deployment of this name is to be made
	ServiceAccount string // of what is new; empty: the namespace's default

	Expose  []PortMap // ports of the target, added or led to another port of the process
	FromPod []Port    // of the pod's loopback address, which lead to the process too
	ToPod   []Port    // of the pod's loopback address, which the process wants to call
}

// Target is a workload that has been found and can be swapped.
type Target struct {
	Namespace string
	Kind      Kind
	Name      string
	Container string
	Replicas  int32
	Available int32 // pods that are available now

	// Listen are the TCP ports that the agent listens on in the pod, ListenUDP the UDP
	// ports, both sorted.
	Listen    []int32
	ListenUDP []int32
	// Loopback are ports on which the agent listens at the pod's loopback address alone.
	Loopback []Port
	// Maps are those of Listen and ListenUDP that lead to another port of the local
	// process; the others lead to the same.
	Maps []PortMap
	// Need are the TCP ports, and NeedUDP the UDP ports, that the local process must listen on
	// before the agent may become Ready, sorted. Both empty: nothing is needed.
	Need    []int32
	NeedUDP []int32
	// TunnelPort is the agent's own port, free in the pod.
	TunnelPort int32

	// Services are the names of the Services that select the pods, sorted.
	Services []string
	// Notes are things that the user ought to know, one sentence each.
	Notes []string

	// ScaleFirst says that the originals must go before the agent's pod can come.
	ScaleFirst bool
	// New says that there is no original: CreateNew makes the target, DeleteNew takes it away.
	New bool
	// Pod is the pod that is parked, of a DaemonSet or itself the target; empty otherwise.
	Pod string

	work     *workload         // as it was read
	original *workload         // the pod named Pod; nil without one
	parked   map[string]string // labels that it loses for the time of the swap
	node     string            // where the agent's pod must stand; empty: anywhere
	skipInit bool
}

// Object is the target's kind and name.
func (t *Target) Object() Object {
	o := Object{Kind: t.Kind, Name: t.Name}
	if t.Kind == DaemonSet {
		o.Pod = t.Pod
	}
	return o
}

// String is the target as messages and flags name it: "deployment/NAME:CONTAINER".
func (t *Target) String() string { return t.Object().String() + ":" + t.Container }

// TargetSummary is one workload for lists and completion.
type TargetSummary struct {
	Namespace  string
	Kind       Kind
	Name       string
	Replicas   int32 // wanted
	Ready      int32
	Containers []string
	Mark       *Mark // nil: not swapped
}

// Namespaces lists the names of the cluster's namespaces, which few users may.
func (c *Cluster) Namespaces(ctx context.Context) ([]string, error) {
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.explain("list namespaces", err)
	}
	names := make([]string, 0, len(list.Items))
	for _, ns := range list.Items {
		names = append(names, ns.Name)
	}
	return names, nil
}

// Targets lists what can be swapped in the cluster's namespace, by kind and name:
// without agents, and without what belongs to something else that can be swapped.
func (c *Cluster) Targets(ctx context.Context) ([]TargetSummary, error) {
	list, err := c.listAll(ctx, c.namespace)
	if err != nil {
		return nil, err
	}
	out := make([]TargetSummary, 0, len(list))
	for _, w := range list {
		mark, err := markOf(w)
		if err != nil {
			c.log.Warn("a mark cannot be read", "target", w.object().String(), "err", err)
		}
		if w.isAgent() || (mark == nil && (w.owner() != nil && w.kind != Deployment || w.finished)) {
			continue
		}
		if mark != nil && w.owner() != nil && w.kind == ReplicaSet {
			continue // a copy of its Deployment's
		}
		out = append(out, TargetSummary{
			Namespace: w.meta.Namespace, Kind: w.kind, Name: w.meta.Name, Replicas: w.replicas, Ready: w.ready,
			Containers: containerNames(w.template.Spec.Containers), Mark: mark,
		})
	}
	order := Kinds()
	slices.SortFunc(out, func(a, b TargetSummary) int {
		if a.Kind != b.Kind {
			return slices.Index(order, a.Kind) - slices.Index(order, b.Kind)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// Resolve finds the target and everything that a swap must know of it. It changes
// nothing. Errors: *NotFoundError, *AmbiguousError, *NoContainerError,
// *SeveralContainersError, *AlreadySwappedError, *NoReplicasError, *UnsupportedError, *PortError,
// *MissingPermissionError, *NoClusterError, *ExpiredError, and of what is to be made *NewError.
func (c *Cluster) Resolve(ctx context.Context, ref Ref) (*Target, error) {
	c = c.In(ref.Namespace)
	if ref.New {
		return c.resolveNew(ctx, ref)
	}
	kind := Kind("")
	if ref.Kind != "" {
		k, known := ParseKind(ref.Kind)
		if !known {
			return nil, &UnsupportedError{
				Target: ref.Kind + "/" + ref.Name, Reason: "it is none of the kinds that can be swapped (" + kindList() + ")",
				Hint: "`teleswap list` shows what can be swapped in namespace " + c.namespace,
			}
		}
		kind = k
	}
	found, err := c.look(ctx, kind, ref.Name)
	if err != nil {
		return nil, err
	}
	if found.work.kind != kind.orDeployment() {
		if err := c.checkKind(ctx, found.work.kind); err != nil {
			return nil, err
		}
	}
	return c.aim(ctx, ref, found)
}

// aim makes the target of what was found.
func (c *Cluster) aim(ctx context.Context, ref Ref, found surroundings) (*Target, error) {
	w := found.work
	if err := checkShape(w); err != nil {
		return nil, err
	}
	t := &Target{
		Namespace: w.meta.Namespace, Kind: w.kind, Name: w.meta.Name, Replicas: w.replicas, Available: min(w.available, w.replicas),
		Notes: found.notes, ScaleFirst: ref.ScaleFirst || w.kind.runsOnce(), work: w, skipInit: ref.SkipInit,
	}
	if err := c.choosePod(ctx, ref, found, t); err != nil {
		return nil, err
	}
	container, err := chooseContainer(w.object(), &t.work.template, ref.Container)
	if err != nil {
		return nil, err
	}
	t.Container = container
	if err := c.checkVariables(ctx, t); err != nil {
		return nil, err
	}
	ports, err := portsOf(t.work.template, container, found.services, ref)
	if err != nil {
		return nil, err
	}
	t.Listen, t.ListenUDP, t.Need, t.NeedUDP = ports.listen, ports.udp, ports.need, ports.needUDP
	t.TunnelPort, t.Services, t.Loopback, t.Maps = ports.tunnel, ports.services, ports.loopback, ports.maps
	t.Notes = append(append(t.Notes, ports.notes...), notesOn(w, found.autoscalers)...)
	if err := c.place(ctx, ref, t); err != nil {
		return nil, err
	}
	if t.Kind.parks() {
		t.parked = c.labelsToPark(ctx, t, found.services)
	}
	return t, nil
}

func kindList() string {
	names := make([]string, 0, len(Kinds()))
	for _, k := range Kinds() {
		names = append(names, k.String())
	}
	return orList(names)
}

// checkShape refuses what is swapped already or cannot be.
func checkShape(w *workload) error {
	name := w.object().String()
	refuse := func(reason, hint string) error {
		return &UnsupportedError{Target: name, Reason: reason, Hint: hint}
	}
	mark, err := markOf(w)
	spec := &w.template.Spec
	switch {
	case err != nil:
		return refuse(fmt.Sprintf("its annotation %s cannot be read: %v", MarkAnnotation, err),
			fmt.Sprintf("if nobody swaps it, remove it: `kubectl annotate %s %s- --namespace=%s`, and check its replicas", name, MarkAnnotation, w.meta.Namespace))
	case mark != nil:
		return &AlreadySwappedError{Namespace: w.meta.Namespace, Target: name, Mark: *mark}
	case w.isAgent():
		return refuse("it is itself the agent of session "+w.meta.Labels[MarkAnnotation], "swap what it stands in for, once that session has ended")
	case w.meta.DeletionTimestamp != nil:
		return refuse("it is being deleted", "wait until it has been made again")
	case w.finished:
		return refuse("it has ended: there is no process whose place could be taken", "make it anew, and swap that")
	case w.replicas == 0 && w.kind.scales():
		return &NoReplicasError{Namespace: w.meta.Namespace, Target: name}
	case spec.HostNetwork:
		return refuse("its pods use the node's network (hostNetwork), so the agent's ports would meet the original's on the node",
			"swap what has pod addresses of its own, or take hostNetwork away for the time of the swap")
	case spec.OS != nil && spec.OS.Name == corev1.Windows:
		return refuse("its pods run on Windows nodes, and the agent is a Linux program", "")
	}
	return nil
}

// defaultContainer is kubectl's annotation for the container that matters.
const defaultContainer = "kubectl.kubernetes.io/default-container"

func chooseContainer(o Object, template *corev1.PodTemplateSpec, wanted string) (string, error) {
	names := containerNames(template.Spec.Containers)
	if wanted != "" {
		if slices.Contains(names, wanted) {
			return wanted, nil
		}
		return "", &NoContainerError{
			Target: o.String(), Container: wanted, Names: names, Near: nearest(wanted, names),
			Init:    slices.Contains(containerNames(template.Spec.InitContainers), wanted),
			Sidecar: slices.Contains(containerNames(podContainers(template.Spec)), wanted), // no main one, see above
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	if name := template.Annotations[defaultContainer]; slices.Contains(names, name) {
		return name, nil
	}
	return "", &SeveralContainersError{Target: o.String(), Names: names}
}

func containerNames(containers []corev1.Container) []string {
	names := make([]string, 0, len(containers))
	for _, c := range containers {
		names = append(names, c.Name)
	}
	return names
}

// selectorText is a label selector for lists; agents never belong to a target.
func selectorText(s *metav1.LabelSelector) string {
	return metav1.FormatLabelSelector(s) + ",!" + MarkAnnotation
}
