package kube

import (
	"context"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// pointers is for lists, whose items are values.
func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

func (c *Cluster) deploymentNamed(name string) *objects[*appsv1.Deployment] {
	api := c.client.AppsV1().Deployments(c.namespace)
	return &objects[*appsv1.Deployment]{
		what:    "deployments",
		options: metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()},
		list: func(ctx context.Context, o metav1.ListOptions) ([]*appsv1.Deployment, string, error) {
			list, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(list.Items), list.ResourceVersion, nil
		},
		watch: api.Watch,
	}
}

func (c *Cluster) deploymentsLabelled(selector string) *objects[*appsv1.Deployment] {
	deployments := c.deploymentNamed("")
	deployments.options = metav1.ListOptions{LabelSelector: selector}
	return deployments
}

// workloadSource follows one object of any kind.
type workloadSource interface {
	source
	known() bool    // it has been looked for
	now() *workload // nil: it does not exist
}

// workloads is a workloadSource.
type workloads[T metav1.Object] struct {
	*objects[T]
	of func(T) *workload
}

func (w workloads[T]) known() bool { return w.synced }

func (w workloads[T]) now() *workload {
	item, found := w.only()
	if !found {
		return nil
	}
	return w.of(item)
}

// workloadNamed follows a workload that has pods of its own.
func (c *Cluster) workloadNamed(o Object) workloadSource {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, o.Name).String()}
	switch o.Kind {
	case StatefulSet:
		api := c.client.AppsV1().StatefulSets(c.namespace)
		return workloads[*appsv1.StatefulSet]{&objects[*appsv1.StatefulSet]{
			what: "statefulsets", options: options, watch: api.Watch,
			list: func(ctx context.Context, o metav1.ListOptions) ([]*appsv1.StatefulSet, string, error) {
				list, err := api.List(ctx, o)
				if err != nil {
					return nil, "", err
				}
				return pointers(list.Items), list.ResourceVersion, nil
			},
		}, ofStatefulSet}
	case ReplicaSet:
		sets := c.replicaSetsLabelled("")
		sets.options = options
		return workloads[*appsv1.ReplicaSet]{sets, ofReplicaSet}
	case DaemonSet:
		api := c.client.AppsV1().DaemonSets(c.namespace)
		return workloads[*appsv1.DaemonSet]{&objects[*appsv1.DaemonSet]{
			what: "daemonsets", options: options, watch: api.Watch,
			list: func(ctx context.Context, o metav1.ListOptions) ([]*appsv1.DaemonSet, string, error) {
				list, err := api.List(ctx, o)
				if err != nil {
					return nil, "", err
				}
				return pointers(list.Items), list.ResourceVersion, nil
			},
		}, ofDaemonSet}
	case Pod:
		return workloads[*corev1.Pod]{c.podNamed(o.Name), ofPod}
	case "", Deployment, CronJob, Job:
	}
	return workloads[*appsv1.Deployment]{c.deploymentNamed(o.Name), ofDeployment}
}

func (c *Cluster) podNamed(name string) *objects[*corev1.Pod] {
	pods := c.podsLabelled("")
	pods.options = metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()}
	return pods
}

func (c *Cluster) podsLabelled(selector string) *objects[*corev1.Pod] {
	api := c.client.CoreV1().Pods(c.namespace)
	return &objects[*corev1.Pod]{
		what:    "pods",
		options: metav1.ListOptions{LabelSelector: selector},
		list: func(ctx context.Context, o metav1.ListOptions) ([]*corev1.Pod, string, error) {
			list, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(list.Items), list.ResourceVersion, nil
		},
		watch: api.Watch,
	}
}

func (c *Cluster) replicaSetsLabelled(selector string) *objects[*appsv1.ReplicaSet] {
	api := c.client.AppsV1().ReplicaSets(c.namespace)
	return &objects[*appsv1.ReplicaSet]{
		what:    "replicasets",
		options: metav1.ListOptions{LabelSelector: selector},
		list: func(ctx context.Context, o metav1.ListOptions) ([]*appsv1.ReplicaSet, string, error) {
			list, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(list.Items), list.ResourceVersion, nil
		},
		watch: api.Watch,
	}
}

// endpointSlices are those of the named Services.
func (c *Cluster) endpointSlices(services []string) *objects[*discoveryv1.EndpointSlice] {
	api := c.client.DiscoveryV1().EndpointSlices(c.namespace)
	return &objects[*discoveryv1.EndpointSlice]{
		what:    "endpointslices",
		options: metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + " in (" + strings.Join(services, ",") + ")"},
		list: func(ctx context.Context, o metav1.ListOptions) ([]*discoveryv1.EndpointSlice, string, error) {
			list, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(list.Items), list.ResourceVersion, nil
		},
		watch: api.Watch,
	}
}

// podWarnings are the warning events on pods of the namespace, looked at only when a
// pod takes longer than usual.
func (c *Cluster) podWarnings(delay time.Duration) *objects[*corev1.Event] {
	api := c.client.CoreV1().Events(c.namespace)
	return &objects[*corev1.Event]{
		what:     "events",
		options:  metav1.ListOptions{FieldSelector: podWarningSelector()},
		optional: true,
		delay:    delay,
		list: func(ctx context.Context, o metav1.ListOptions) ([]*corev1.Event, string, error) {
			list, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(list.Items), list.ResourceVersion, nil
		},
		watch: api.Watch,
	}
}

func podWarningSelector() string {
	return fields.Set{"involvedObject.kind": "Pod", "type": corev1.EventTypeWarning}.AsSelector().String()
}
