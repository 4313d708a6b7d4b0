package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/manifests"
)

// workload is an object of any kind, as far as a swap looks at it. What it holds is as
// it was read, and must not be changed.
type workload struct {
	kind Kind
	meta metav1.ObjectMeta
	// template is of the pods; a StatefulSet's is that of its first pod.
	template corev1.PodTemplateSpec
	// lost are labels of a Job's template that its agent's pod must not have.
	lost map[string]string
	// podName is the lasting name of the pod whose place is taken; empty where names are
	// made up for each pod.
	podName   string
	selector  *metav1.LabelSelector
	replicas  int32 // wanted
	ready     int32
	available int32
	observed  int64 // generation that the controller has seen
	rolling   bool  // pods of an older template are being replaced
	paused    bool
	suspended bool
	finished  bool   // a Job that is over, a pod that has ended
	failure   string // why the controller cannot make pods
	node      string // of a pod
}

func (w *workload) object() Object { return Object{Kind: w.kind, Name: w.meta.Name} }

// input is the workload as manifests take it.
func (w *workload) input() manifests.Workload {
	return manifests.Workload{
		APIVersion: w.kind.apiVersion(), Kind: string(w.kind), Namespace: w.meta.Namespace, Name: w.meta.Name,
		UID: w.meta.UID, Template: w.template,
	}
}

// isAgent reports an object that Teleswap itself has made.
func (w *workload) isAgent() bool { return w.meta.Labels[MarkAnnotation] != "" }

// owner is the controller of the object; nil: nobody.
func (w *workload) owner() *metav1.OwnerReference { return metav1.GetControllerOf(&w.meta) }

func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1 // Kubernetes' default
	}
	return *replicas
}

func ofDeployment(d *appsv1.Deployment) *workload {
	w := &workload{
		kind: Deployment, meta: d.ObjectMeta, template: d.Spec.Template, selector: d.Spec.Selector,
		replicas: wanted(d.Spec.Replicas), ready: d.Status.ReadyReplicas, available: d.Status.AvailableReplicas,
		observed: d.Status.ObservedGeneration, paused: d.Spec.Paused,
	}
	w.rolling = d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < d.Status.Replicas ||
		d.Status.UpdatedReplicas < w.replicas
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			w.failure = c.Message
		}
	}
	return w
}

func ofStatefulSet(s *appsv1.StatefulSet) *workload {
	w := &workload{
		kind: StatefulSet, meta: s.ObjectMeta, selector: s.Spec.Selector, replicas: wanted(s.Spec.Replicas),
		ready: s.Status.ReadyReplicas, available: s.Status.AvailableReplicas, observed: s.Status.ObservedGeneration,
		rolling: s.Status.UpdateRevision != s.Status.CurrentRevision,
	}
	w.template, w.podName = manifests.StatefulPod(s)
	return w
}

func ofReplicaSet(s *appsv1.ReplicaSet) *workload {
	w := &workload{
		kind: ReplicaSet, meta: s.ObjectMeta, template: s.Spec.Template, selector: s.Spec.Selector,
		replicas: wanted(s.Spec.Replicas), ready: s.Status.ReadyReplicas, available: s.Status.AvailableReplicas,
		observed: s.Status.ObservedGeneration,
	}
	for _, c := range s.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			w.failure = c.Message
		}
	}
	return w
}

func ofDaemonSet(s *appsv1.DaemonSet) *workload {
	return &workload{
		kind: DaemonSet, meta: s.ObjectMeta, template: s.Spec.Template, selector: s.Spec.Selector,
		replicas: s.Status.DesiredNumberScheduled, ready: s.Status.NumberReady, available: s.Status.NumberAvailable,
		observed: s.Status.ObservedGeneration,
		rolling:  s.Status.ObservedGeneration < s.Generation || s.Status.UpdatedNumberScheduled < s.Status.DesiredNumberScheduled,
	}
}

func ofCronJob(j *batchv1.CronJob) *workload {
	return &workload{
		kind: CronJob, meta: j.ObjectMeta, template: j.Spec.JobTemplate.Spec.Template, replicas: 1,
		ready: int32(len(j.Status.Active)), suspended: j.Spec.Suspend != nil && *j.Spec.Suspend,
	}
}

func ofJob(j *batchv1.Job) *workload {
	template, lost := withoutSelected(j.Spec.Template, j.Spec.Selector)
	w := &workload{
		kind: Job, meta: j.ObjectMeta, template: template, lost: lost, selector: j.Spec.Selector, replicas: wanted(j.Spec.Parallelism),
		ready: j.Status.Active, suspended: j.Spec.Suspend != nil && *j.Spec.Suspend,
	}
	if j.Status.Ready != nil {
		w.ready = *j.Status.Ready
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			w.finished = true
		}
	}
	return w
}

// withoutSelected is a Job's template without the labels by which its controller finds
// the pods: one that nobody controls it would take for its own, count, and, of a Job
// that is suspended, delete (pkg/controller/job). lost are those labels.
func withoutSelected(template corev1.PodTemplateSpec, selector *metav1.LabelSelector) (_ corev1.PodTemplateSpec, lost map[string]string) {
	if selector == nil {
		return template, nil
	}
	keys := slices.Collect(maps.Keys(selector.MatchLabels))
	for _, e := range selector.MatchExpressions {
		keys = append(keys, e.Key)
	}
	lost = map[string]string{}
	template.Labels = maps.Clone(template.Labels)
	for _, key := range keys {
		if value, has := template.Labels[key]; has {
			lost[key] = value
			delete(template.Labels, key)
		}
	}
	return template, lost
}

func ofPod(p *corev1.Pod) *workload {
	w := &workload{
		kind: Pod, meta: p.ObjectMeta, template: manifests.PodTemplate(p), podName: p.Name, replicas: 1, node: p.Spec.NodeName,
		finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	if isReady(p, "") {
		w.ready, w.available = 1, 1
	}
	return w
}

// get reads an object of a kind; nil where there is none of that name.
func (c *Cluster) get(ctx context.Context, o Object) (*workload, error) {
	var w *workload
	err := c.call(ctx, "read "+o.String(), func(ctx context.Context) (err error) {
		w, err = c.fetch(ctx, o)
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // documented: a name that is not there is no error here
	}
	return w, err
}

// read reads an object, and repeats until ctx ends while the API server is away. What is not there is the API's own error
// (apierrors.IsNotFound).
func (c *Cluster) read(ctx context.Context, o Object) (*workload, error) {
	var w *workload
	err := c.insist(ctx, "read "+o.String(), func(ctx context.Context) (err error) {
		w, err = c.fetch(ctx, o)
		return err
	})
	return w, err
}

// fetch is one call.
func (c *Cluster) fetch(ctx context.Context, o Object) (*workload, error) {
	options := metav1.GetOptions{}
	switch o.Kind.orDeployment() {
	case Deployment:
		return made(ofDeployment)(c.client.AppsV1().Deployments(c.namespace).Get(ctx, o.Name, options))
	case StatefulSet:
		return made(ofStatefulSet)(c.client.AppsV1().StatefulSets(c.namespace).Get(ctx, o.Name, options))
	case DaemonSet:
		return made(ofDaemonSet)(c.client.AppsV1().DaemonSets(c.namespace).Get(ctx, o.Name, options))
	case ReplicaSet:
		return made(ofReplicaSet)(c.client.AppsV1().ReplicaSets(c.namespace).Get(ctx, o.Name, options))
	case CronJob:
		return made(ofCronJob)(c.client.BatchV1().CronJobs(c.namespace).Get(ctx, o.Name, options))
	case Job:
		return made(ofJob)(c.client.BatchV1().Jobs(c.namespace).Get(ctx, o.Name, options))
	case Pod:
		return made(ofPod)(c.client.CoreV1().Pods(c.namespace).Get(ctx, o.Name, options))
	}
	return nil, unknownKind(o.Kind)
}

func unknownKind(k Kind) error {
	return fmt.Errorf("this version of teleswap knows no kind %q", string(k))
}

// made turns an answer of the API into a workload.
func made[T any](of func(*T) *workload) func(*T, error) (*workload, error) {
	return func(object *T, err error) (*workload, error) {
		if err != nil {
			return nil, err
		}
		return of(object), nil
	}
}

// patch changes an object by a JSON merge patch (RFC 7386). subresource may be empty.
func (c *Cluster) patch(ctx context.Context, o Object, patch []byte, subresources ...string) (*workload, error) {
	const kind = types.MergePatchType
	options := metav1.PatchOptions{}
	switch o.Kind.orDeployment() {
	case Deployment:
		return made(ofDeployment)(c.client.AppsV1().Deployments(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	case StatefulSet:
		return made(ofStatefulSet)(c.client.AppsV1().StatefulSets(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	case DaemonSet:
		return made(ofDaemonSet)(c.client.AppsV1().DaemonSets(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	case ReplicaSet:
		return made(ofReplicaSet)(c.client.AppsV1().ReplicaSets(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	case CronJob:
		return made(ofCronJob)(c.client.BatchV1().CronJobs(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	case Job:
		return made(ofJob)(c.client.BatchV1().Jobs(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	case Pod:
		return made(ofPod)(c.client.CoreV1().Pods(c.namespace).Patch(ctx, o.Name, kind, patch, options, subresources...))
	}
	return nil, unknownKind(o.Kind)
}

// list reads all objects of a kind.
func (c *Cluster) list(ctx context.Context, k Kind, namespace string) ([]*workload, error) {
	var out []*workload
	options := metav1.ListOptions{}
	err := c.call(ctx, "list "+k.resource(), func(ctx context.Context) error {
		var err error
		switch k {
		case Deployment:
			list, failed := c.client.AppsV1().Deployments(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *appsv1.DeploymentList) []appsv1.Deployment { return l.Items }, ofDeployment)
		case StatefulSet:
			list, failed := c.client.AppsV1().StatefulSets(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items }, ofStatefulSet)
		case DaemonSet:
			list, failed := c.client.AppsV1().DaemonSets(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *appsv1.DaemonSetList) []appsv1.DaemonSet { return l.Items }, ofDaemonSet)
		case ReplicaSet:
			list, failed := c.client.AppsV1().ReplicaSets(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items }, ofReplicaSet)
		case CronJob:
			list, failed := c.client.BatchV1().CronJobs(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *batchv1.CronJobList) []batchv1.CronJob { return l.Items }, ofCronJob)
		case Job:
			list, failed := c.client.BatchV1().Jobs(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *batchv1.JobList) []batchv1.Job { return l.Items }, ofJob)
		case Pod:
			list, failed := c.client.CoreV1().Pods(namespace).List(ctx, options)
			out, err = all(list, failed, func(l *corev1.PodList) []corev1.Pod { return l.Items }, ofPod)
		default:
			err = unknownKind(k)
		}
		return err
	})
	return out, err
}

func all[L, T any](list *L, err error, items func(*L) []T, of func(*T) *workload) ([]*workload, error) {
	if err != nil {
		return nil, err
	}
	objects := items(list)
	out := make([]*workload, 0, len(objects))
	for i := range objects {
		out = append(out, of(&objects[i]))
	}
	return out, nil
}

// listAll reads the objects of all kinds. Kinds that the user may not list are left
// out, but for Deployments.
func (c *Cluster) listAll(ctx context.Context, namespace string) ([]*workload, error) {
	kinds := Kinds()
	found, errs := make([][]*workload, len(kinds)), make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, k := range kinds {
		wg.Go(func() { found[i], errs[i] = c.list(ctx, k, namespace) })
	}
	wg.Wait()
	var out []*workload
	for i, k := range kinds {
		if errs[i] != nil && (k == Deployment || !isDenied(errs[i])) {
			return nil, errs[i]
		}
		out = append(out, found[i]...)
	}
	return out, nil
}

// markOf reads the mark of an object; nil when there is none.
func markOf(w *workload) (*Mark, error) {
	value, found := w.meta.Annotations[MarkAnnotation]
	if !found {
		return nil, nil //nolint:nilnil // no mark is the usual case and no error
	}
	var m Mark
	if err := json.Unmarshal([]byte(value), &m); err != nil {
		return nil, fmt.Errorf("read mark: %w", err)
	}
	return &m, nil
}
