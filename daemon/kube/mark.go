package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/manifests"
)

// MarkAnnotation is the annotation on a target that says whose session holds it.
const MarkAnnotation = manifests.SessionKey

const (
	// markTries bounds how often marking starts anew because somebody else (a
	// controller, mostly) changed the target in between.
	markTries = 10
	// observeTimeout bounds the wait for the Deployment controller to see a change.
	observeTimeout = 5 * time.Second
)

// Mark is the value of the annotation, as JSON.
type Mark struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Host     string    `json:"host"`
	Since    time.Time `json:"since"`
	Replicas int32     `json:"replicas"` // of the target before the swap
	Agent    string    `json:"agent"`    // name of the agent's Deployment or Pod, and Secret

	// Pod is the pod that is parked, and Parked the labels that it has lost meanwhile.
	Pod    string            `json:"pod,omitempty"`
	Parked map[string]string `json:"parked,omitempty"`
	// Suspended: the Job or CronJob was suspended before the swap.
	Suspended bool `json:"suspended,omitempty"`
	// ScaleFirst: the originals went before the agent came, and come after it has gone.
	ScaleFirst bool `json:"scaleFirst,omitempty"`
	// New: what bears the mark was made for the session, and goes with it.
	New bool `json:"new,omitempty"`
	// Restoring: the session is being undone. What the write of it is for: no older change of the session can be made any more.
	Restoring bool `json:"restoring,omitempty"`
}

// Who is user@host.
func (m Mark) Who() string { return m.User + "@" + m.Host }

// Marked is a target that bears a mark.
type Marked struct {
	Namespace string
	Kind      Kind
	Name      string
	Mark      Mark
}

// Object is what bears the mark.
func (m Marked) Object() Object {
	o := Object{Kind: m.Kind, Name: m.Name}
	if m.Kind == DaemonSet {
		o.Pod = m.Mark.Pod
	}
	return o
}

// Mark writes the mark onto the target, and returns it as it stands in the cluster:
// its Replicas are the target's at the moment of marking, which may have changed
// since Resolve. Of two laptops that mark at once one wins and the other gets
// *AlreadySwappedError: the write holds only if the target is still as it was read.
// Marking again with the same ID is fine.
func (c *Cluster) Mark(ctx context.Context, t *Target, m Mark) (Mark, error) {
	c = c.In(t.Namespace)
	read := t.work
	m.Pod, m.Parked = t.Pod, t.parked
	for range markTries {
		m.Replicas, m.Suspended = read.replicas, read.suspended
		err := c.putMark(ctx, read, m, c.change)
		if err == nil || !apierrors.IsConflict(err) {
			return m, err
		}
		if read, err = c.get(ctx, t.Object()); err != nil {
			return m, err
		}
		if read == nil {
			return m, c.gone(t.Object(), nil)
		}
		if mark, err := markOf(read); err == nil && mark != nil && mark.ID == m.ID {
			return *mark, nil // an earlier try did reach the server
		}
		if err := checkShape(read); err != nil {
			return m, err
		}
	}
	return m, changedByOthers("mark", t.Object())
}

// Remark brings the mark up to date with the target, which may have been scaled or suspended since, and returns it. A mark that
// somebody has taken off stays off. It repeats until ctx ends while the API server is away. Errors: *AlreadySwappedError where it is
// another session's by now, *NotFoundError.
func (c *Cluster) Remark(ctx context.Context, t *Target, m Mark) (Mark, error) {
	c = c.In(t.Namespace)
	if t.Kind.parks() {
		return m, nil
	}
	for range markTries {
		w, err := c.read(ctx, t.Object())
		switch {
		case isMissing(err):
			return m, c.gone(t.Object(), err)
		case err != nil:
			return m, err
		}
		stands, err := markOf(w)
		switch {
		case err != nil:
			return m, err
		case stands != nil && stands.ID != m.ID:
			return m, &AlreadySwappedError{Namespace: c.namespace, Target: t.Object().String(), Mark: *stands}
		}
		m.Replicas, m.Suspended = w.replicas, w.suspended
		if stands == nil || stands.Replicas == m.Replicas && stands.Suspended == m.Suspended {
			return m, nil
		}
		if err := c.putMark(ctx, w, m, c.insistChange); !apierrors.IsConflict(err) {
			return m, err
		}
	}
	return m, changedByOthers("mark", t.Object())
}

// putMark writes the mark, by change or insistChange, if the object is still the version that was read.
func (c *Cluster) putMark(ctx context.Context, read *workload, m Mark,
	change func(ctx context.Context, doing string, do func(context.Context) error) error,
) error {
	patch, err := markPatch(read, m)
	if err != nil {
		return err
	}
	return change(ctx, "mark "+read.object().String(), func(ctx context.Context) error {
		_, err := c.patch(ctx, read.object(), patch)
		return err
	})
}

func markPatch(read *workload, m Mark) ([]byte, error) {
	value, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write mark: %w", err)
	}
	return annotationPatch(read, string(value))
}

// annotationPatch sets the mark's annotation, or removes it with a nil value.
func annotationPatch(read *workload, value any) ([]byte, error) {
	return versionPatch(read, map[string]any{"metadata": map[string]any{"annotations": map[string]any{MarkAnnotation: value}}})
}

// versionPatch is a merge patch of fields for the version that was read: the API server takes one that names uid and
// resourceVersion only if they are still the object's. Of the subresource scale it is the same.
func versionPatch(read *workload, fields map[string]any) ([]byte, error) {
	meta, _ := fields["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
	}
	meta["uid"], meta["resourceVersion"] = read.meta.UID, read.meta.ResourceVersion
	fields["metadata"] = meta
	patch, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("write patch: %w", err)
	}
	return patch, nil
}

// ReadMark returns the target's mark, nil when it bears none. A target that does not
// exist is a *NotFoundError.
func (c *Cluster) ReadMark(ctx context.Context, o Object) (*Mark, error) {
	w, err := c.get(ctx, o)
	if err != nil {
		return nil, err
	}
	if w == nil {
		return nil, c.gone(o, nil)
	}
	return markOf(w)
}

// Unmark removes the mark of session id, from the target and, of a Deployment, from the
// ReplicaSets to which its controller copied it. A mark of another session stays; no
// mark, or no target, is success. It repeats until ctx ends while the API server is away.
//
// Where there is none it may be on its way: a request of a process that was killed, or that never got its answer. So
// the object is changed, which that request cannot follow (it names the version that it is for).
func (c *Cluster) Unmark(ctx context.Context, o Object, id string) error {
	fenced, removed := false, false
	for range markTries {
		w, err := c.read(ctx, o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		mark, err := markOf(w)
		switch {
		case err != nil:
			return fmt.Errorf("unmark %s: %w", o, err)
		case mark != nil && mark.ID != id:
			return nil
		case mark != nil:
			w, err = c.removeMark(ctx, w)
			removed = err == nil
		case !fenced:
			var written bool
			if written, err = c.fence(ctx, w, Mark{ID: id}); written {
				fenced = true
				continue
			}
		}
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil || w == nil || w.kind != Deployment {
			return err
		}
		if removed {
			c.waitObserved(ctx, w)
		}
		return c.cleanReplicaSets(ctx, w, id)
	}
	return changedByOthers("unmark", o)
}

// fence writes m, as of a session that is being undone, so that none of its changes that are on their way is made any more: they
// name an older version. written is false where the API server, or a webhook of it, will not have it: then it has had nothing of the
// kind before.
func (c *Cluster) fence(ctx context.Context, read *workload, m Mark) (written bool, err error) {
	m.Restoring = true
	err = c.putMark(ctx, read, m, c.change)
	if isDenied(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) || isWebhooks(err) {
		c.log.Debug("not marked as being restored", "target", read.object().String(), "err", err)
		return false, nil
	}
	return err == nil, err
}

// isWebhooks tells errors of admission webhooks, which may bear any code, from the API server's own
// (k8s.io/apiserver, pkg/admission/plugin/webhook).
func isWebhooks(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "failed calling webhook") || strings.Contains(text, "denied the request")
}

// removeMark returns the object without the mark; nil if it does not exist any more.
func (c *Cluster) removeMark(ctx context.Context, read *workload) (*workload, error) {
	patch, err := annotationPatch(read, nil)
	if err != nil {
		return nil, err
	}
	var w *workload
	err = c.insistChange(ctx, "unmark "+read.object().String(), func(ctx context.Context) (err error) {
		w, err = c.patch(ctx, read.object(), patch)
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // documented: gone is no error here
	}
	return w, err
}

// cleanReplicaSets removes the copies of the mark. The Deployment controller copies
// annotations to the ReplicaSet but never removes them, and it may do so until it has
// seen the Deployment without, for which the caller has waited.
func (c *Cluster) cleanReplicaSets(ctx context.Context, d *workload, id string) error {
	selector := metav1.FormatLabelSelector(d.selector)
	marked, err := c.markedReplicaSets(ctx, selector, id)
	if err != nil || len(marked) == 0 {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{MarkAnnotation: nil}}})
	if err != nil {
		return fmt.Errorf("write patch: %w", err)
	}
	for _, name := range marked {
		err := c.insistChange(ctx, "unmark replicaset/"+name, func(ctx context.Context) error {
			_, err := c.client.AppsV1().ReplicaSets(c.namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		})
		switch {
		case isDenied(err):
			c.log.Warn("a copy of the mark stays on a replicaset, where it does no harm: no permission to patch it", "replicaset", name)
		case err != nil && !apierrors.IsNotFound(err):
			return err
		}
	}
	return nil
}

func (c *Cluster) markedReplicaSets(ctx context.Context, selector, id string) ([]string, error) {
	var names []string
	err := c.insist(ctx, "list replicasets", func(ctx context.Context) error {
		list, err := c.client.AppsV1().ReplicaSets(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		names = nil
		for _, set := range list.Items {
			var m Mark
			value, found := set.Annotations[MarkAnnotation]
			if found && json.Unmarshal([]byte(value), &m) == nil && m.ID == id {
				names = append(names, set.Name)
			}
		}
		return nil
	})
	return names, err
}

// waitObserved waits until the Deployment controller has seen this generation. It gives
// up quietly: what depends on it is only tidiness.
func (c *Cluster) waitObserved(ctx context.Context, d *workload) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	source := c.deploymentNamed(d.meta.Name)
	judge := func() verdict {
		now, found := source.only()
		return verdict{done: source.synced && (!found || now.Status.ObservedGeneration >= d.meta.Generation)}
	}
	if err := c.wait(ctx, "wait for the deployment controller", nil, judge, source); err != nil {
		c.log.Debug("the deployment controller is slow", "deployment", d.meta.Name, "err", err)
	}
}

// ListMarked lists the targets that bear a mark: of the cluster's namespace, or of
// all namespaces (which needs a cluster-wide permission).
func (c *Cluster) ListMarked(ctx context.Context, allNamespaces bool) ([]Marked, error) {
	namespace := c.namespace
	if allNamespaces {
		namespace = metav1.NamespaceAll
	}
	list, err := c.listAll(ctx, namespace)
	if err != nil {
		return nil, err
	}
	var out []Marked
	for _, w := range list {
		if w.kind == ReplicaSet && w.owner() != nil {
			continue // a copy of its Deployment's
		}
		mark, err := markOf(w)
		if err != nil {
			c.log.Warn("a mark cannot be read", "namespace", w.meta.Namespace, "target", w.object().String(), "err", err)
		}
		if mark != nil {
			out = append(out, Marked{Namespace: w.meta.Namespace, Kind: w.kind, Name: w.meta.Name, Mark: *mark})
		}
	}
	return out, nil
}
