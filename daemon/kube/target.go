package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ref names a target as the user did.
type Ref struct {
	Namespace string // empty: the cluster's namespace
	Kind      string // "deployment", "deploy", "deployments"; empty means deployment
	Name      string
	Container string // empty: chosen by Resolve
}

// Target is a workload that has been found and can be swapped.
type Target struct {
	Namespace string
	Name      string
	Container string
	Replicas  int32

	// Listen are the TCP ports that the agent listens on in the pod, sorted.
	Listen []int32
	// Need are those of them that the local process must listen on before the agent
	// may become Ready, sorted. Empty: nothing is needed.
	Need []int32
	// TunnelPort is the agent's own port, free in the pod.
	TunnelPort int32

	// Services are the names of the Services that select the pods, sorted.
	Services []string
	// Notes are things that the user ought to know, one sentence each.
	Notes []string

	// Deployment is the object as it was read. It must not be changed.
	Deployment *appsv1.Deployment
}

// String is the target as messages and flags name it: "deployment/NAME:CONTAINER".
func (t *Target) String() string { return targetName(t.Name) + ":" + t.Container }

func targetName(name string) string { return "deployment/" + name }

// TargetSummary is one Deployment for lists and completion.
type TargetSummary struct {
	Namespace  string
	Name       string
	Replicas   int32 // wanted
	Ready      int32
	Containers []string
	Mark       *Mark // nil: not swapped
}

// Targets lists the Deployments of the cluster's namespace by name, without agents.
func (c *Cluster) Targets(ctx context.Context) ([]TargetSummary, error) {
	list, err := c.listDeployments(ctx, c.namespace)
	if err != nil {
		return nil, err
	}
	out := make([]TargetSummary, 0, len(list))
	for i := range list {
		d := &list[i]
		if _, agent := d.Labels[MarkAnnotation]; agent {
			continue
		}
		mark, err := markOf(d)
		if err != nil {
			c.log.Warn("a mark cannot be read", "deployment", d.Name, "err", err)
		}
		out = append(out, TargetSummary{
			Namespace: d.Namespace, Name: d.Name, Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas,
			Containers: containerNames(d.Spec.Template.Spec.Containers), Mark: mark,
		})
	}
	slices.SortFunc(out, func(a, b TargetSummary) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (c *Cluster) listDeployments(ctx context.Context, namespace string) ([]appsv1.Deployment, error) {
	var items []appsv1.Deployment
	err := c.call(ctx, "list deployments", func(ctx context.Context) error {
		list, err := c.client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			items = list.Items
		}
		return err
	})
	return items, err
}

// Resolve finds the target and everything that a swap must know of it, in one round
// trip. It changes nothing. Errors: *NotFoundError, *NoContainerError,
// *SeveralContainersError, *AlreadySwappedError, *NoReplicasError, *UnsupportedError,
// *MissingPermissionError, *NoClusterError, *ExpiredError.
func (c *Cluster) Resolve(ctx context.Context, ref Ref) (*Target, error) {
	c = c.In(ref.Namespace)
	switch strings.ToLower(ref.Kind) {
	case "", "deployment", "deployments", "deploy", "deployments.apps", "deployment.apps":
	default:
		return nil, &UnsupportedError{
			Target: ref.Kind + "/" + ref.Name, Reason: "only Deployments can be swapped so far",
			Hint: "name a target as deployment/NAME; `teleswap list` shows those of namespace " + c.namespace,
		}
	}
	found, err := c.look(ctx, ref.Name)
	if err != nil {
		return nil, err
	}
	d := found.deployment
	if err := checkShape(d); err != nil {
		return nil, err
	}
	container, err := chooseContainer(d, ref.Container)
	if err != nil {
		return nil, err
	}
	t := &Target{
		Namespace: d.Namespace, Name: d.Name, Container: container, Replicas: replicasOf(d), Deployment: d,
	}
	ports := portsOf(d.Spec.Template, container, found.services)
	t.Listen, t.Need, t.TunnelPort, t.Services = ports.listen, ports.need, ports.tunnel, ports.services
	t.Notes = append(ports.notes, notesOn(d, found.autoscalers)...)
	return t, nil
}

// surroundings is what is read of a target at once.
type surroundings struct {
	deployment  *appsv1.Deployment
	services    []corev1.Service
	autoscalers []autoscalingv2.HorizontalPodAutoscaler
}

func (c *Cluster) look(ctx context.Context, name string) (surroundings, error) {
	var (
		out                 surroundings
		wg                  sync.WaitGroup
		deployErr, services error
	)
	wg.Go(func() { out.deployment, deployErr = c.getDeployment(ctx, name) })
	wg.Go(func() {
		services = c.call(ctx, "list services", func(ctx context.Context) error {
			list, err := c.client.CoreV1().Services(c.namespace).List(ctx, metav1.ListOptions{})
			if err == nil {
				out.services = list.Items
			}
			return err
		})
	})
	wg.Go(func() {
		// An autoscaler is only good for a note: whoever may not see it loses the note.
		_ = c.call(ctx, "list autoscalers", func(ctx context.Context) error {
			list, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(c.namespace).List(ctx, metav1.ListOptions{})
			if err == nil {
				out.autoscalers = list.Items
			}
			return err
		})
	})
	wg.Wait()
	if deployErr != nil {
		return out, deployErr
	}
	return out, services
}

// getDeployment reads a Deployment; one that is missing comes with near names.
func (c *Cluster) getDeployment(ctx context.Context, name string) (*appsv1.Deployment, error) {
	var d *appsv1.Deployment
	err := c.call(ctx, "read "+targetName(name), func(ctx context.Context) error {
		var err error
		d, err = c.client.AppsV1().Deployments(c.namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			d = nil
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, c.unknownDeployment(ctx, name)
	}
	return d, nil
}

// unknownDeployment makes the error for a Deployment that is missing: perhaps the
// namespace is, perhaps the name is nearly right.
func (c *Cluster) unknownDeployment(ctx context.Context, name string) error {
	var (
		wg        sync.WaitGroup
		names     []string
		namespace error
	)
	wg.Go(func() { namespace = c.checkNamespace(ctx, name) })
	wg.Go(func() {
		targets, err := c.Targets(ctx)
		if err != nil {
			c.log.Debug("no names to suggest", "err", err)
			return
		}
		for _, t := range targets {
			names = append(names, t.Name)
		}
	})
	wg.Wait()
	if namespace != nil {
		return namespace
	}
	hint := "`teleswap list` shows the Deployments of a namespace; --namespace names another one"
	if len(names) == 0 {
		hint = fmt.Sprintf("namespace %s has no Deployments; --namespace names another one", c.namespace)
	}
	return &NotFoundError{
		What: "deployment", Name: name, Namespace: c.namespace,
		Near: nearest(name, names), Names: few(names), Hint: hint,
	}
}

// checkNamespace says whether the namespace, in which a Deployment was looked for, is
// known not to exist. Nil where the user may not ask.
func (c *Cluster) checkNamespace(ctx context.Context, deployment string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, err := c.client.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return nil
	}
	e := &NotFoundError{
		What: "namespace", Name: c.namespace,
		Hint: fmt.Sprintf("%s must be elsewhere: name its namespace with --namespace; `kubectl get namespaces` lists them", targetName(deployment)),
	}
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return e // without near names: listing needs a cluster-wide permission
	}
	var names []string
	for _, ns := range list.Items {
		names = append(names, ns.Name)
	}
	e.Near, e.Names = nearest(c.namespace, names), few(names)
	return e
}

// checkShape refuses what is swapped already or cannot be.
func checkShape(d *appsv1.Deployment) error {
	refuse := func(reason, hint string) error {
		return &UnsupportedError{Target: targetName(d.Name), Reason: reason, Hint: hint}
	}
	mark, err := markOf(d)
	spec := &d.Spec.Template.Spec
	switch {
	case err != nil:
		return refuse(fmt.Sprintf("its annotation %s cannot be read: %v", MarkAnnotation, err),
			fmt.Sprintf("if nobody swaps it, remove it: `kubectl annotate %s %s- --namespace=%s`, and check its replicas", targetName(d.Name), MarkAnnotation, d.Namespace))
	case mark != nil:
		return &AlreadySwappedError{Namespace: d.Namespace, Target: targetName(d.Name), Mark: *mark}
	case d.Labels[MarkAnnotation] != "":
		return refuse("it is itself the agent of session "+d.Labels[MarkAnnotation], "swap the Deployment that it stands in for, once that session has ended")
	case d.DeletionTimestamp != nil:
		return refuse("it is being deleted", "wait until it has been made again")
	case replicasOf(d) == 0:
		return &NoReplicasError{Namespace: d.Namespace, Target: targetName(d.Name)}
	case spec.HostNetwork:
		return refuse("its pods use the node's network (hostNetwork), so the agent's ports would meet the original's on the node",
			"swap a Deployment that has pod addresses of its own, or take hostNetwork away for the time of the swap")
	case spec.OS != nil && spec.OS.Name == corev1.Windows:
		return refuse("its pods run on Windows nodes, and the agent is a Linux program", "")
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, port := range container.Ports {
			if port.HostPort != 0 {
				return refuse(fmt.Sprintf("container %s takes port %d of the node (hostPort), so the agent's pod cannot run beside the original's on that node", container.Name, port.HostPort),
					"take hostPort away for the time of the swap, or reach the pods through a Service")
			}
		}
	}
	return nil
}

// defaultContainer is kubectl's annotation for the container that matters.
const defaultContainer = "kubectl.kubernetes.io/default-container"

func chooseContainer(d *appsv1.Deployment, wanted string) (string, error) {
	spec := &d.Spec.Template.Spec
	names := containerNames(spec.Containers)
	if wanted != "" {
		if slices.Contains(names, wanted) {
			return wanted, nil
		}
		return "", &NoContainerError{
			Target: targetName(d.Name), Container: wanted, Names: names, Near: nearest(wanted, names),
			Init: slices.Contains(containerNames(spec.InitContainers), wanted),
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	if name := d.Spec.Template.Annotations[defaultContainer]; slices.Contains(names, name) {
		return name, nil
	}
	return "", &SeveralContainersError{Target: targetName(d.Name), Names: names}
}

func containerNames(containers []corev1.Container) []string {
	names := make([]string, 0, len(containers))
	for _, c := range containers {
		names = append(names, c.Name)
	}
	return names
}

// replicasOf is how many replicas are wanted; Kubernetes' default is one.
func replicasOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// markOf reads the mark of a Deployment; nil when there is none.
func markOf(d *appsv1.Deployment) (*Mark, error) {
	value, found := d.Annotations[MarkAnnotation]
	if !found {
		return nil, nil //nolint:nilnil // no mark is the usual case and no error
	}
	var m Mark
	if err := json.Unmarshal([]byte(value), &m); err != nil {
		return nil, fmt.Errorf("read mark: %w", err)
	}
	return &m, nil
}
