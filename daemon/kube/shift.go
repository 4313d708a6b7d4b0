package kube

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/manifests"
)

// Shift is how the originals are taken away, and everything that is needed to bring
// them back. It is data: a ledger's record holds it as JSON, in which a Shift of a
// Deployment is what versions wrote that knew no other kind.
type Shift struct {
	Kind Kind   `json:"kind,omitempty"` // empty: a Deployment
	Name string `json:"name"`
	// Replicas are what is scaled back to.
	Replicas int32 `json:"replicas"`
	// Pod is parked (of a DaemonSet, or itself the target): it loses Parked of its labels.
	Pod    string            `json:"pod,omitempty"`
	Parked map[string]string `json:"parked,omitempty"`
	// Suspended: a Job or CronJob was suspended before, and stays so.
	Suspended bool `json:"suspended,omitempty"`
}

// Object is what is shifted.
func (s Shift) Object() Object {
	o := Object{Kind: s.Kind, Name: s.Name}
	if s.Kind == DaemonSet {
		o.Pod = s.Pod
	}
	return o
}

// Shift is how the bearer of the mark is given back.
func (m Mark) Shift(o Object) Shift {
	s := Shift{Kind: o.Kind, Name: o.Name, Replicas: m.Replicas, Pod: m.Pod, Parked: m.Parked, Suspended: m.Suspended}
	if s.Kind == Deployment {
		s.Kind = ""
	}
	return s
}

// String says what Shift does, for the user.
func (s Shift) String() string {
	switch {
	case s.Kind.scales():
		return fmt.Sprintf("%d → 0 replicas", s.Replicas)
	case s.Kind.runsOnce():
		return "suspended"
	}
	return fmt.Sprintf("pod %s is parked", s.Pod)
}

// Outcome is what Unshift found to do.
type Outcome int

// The outcomes.
const (
	Returned Outcome = iota // the originals are back, by it or by somebody before it
	Gone                    // there is nothing to bring back
	Taken                   // another session has the target: they are its to bring back
)

// Shift takes the originals away. agent is the agent's name. It repeats until ctx ends
// while the API server is away, and may be repeated. Errors: *NotFoundError for a target that does not
// exist, *AlreadySwappedError for one that bears another session's mark.
func (c *Cluster) Shift(ctx context.Context, s Shift, agent string) error {
	o := s.Object()
	for try := range markTries {
		w, err := c.read(ctx, o)
		if isMissing(err) {
			return c.gone(o, err)
		}
		if err != nil {
			return err
		}
		if other := markOfAnother(w, agent); other != nil {
			return &AlreadySwappedError{Namespace: c.namespace, Target: o.String(), Mark: *other}
		}
		switch {
		case s.Kind.scales():
			err = c.scale(ctx, w, 0)
		case s.Kind.runsOnce() && s.Suspended:
		case s.Kind.runsOnce():
			err = c.suspend(ctx, w, true)
		case s.Kind == DaemonSet:
			err = c.takeSlot(ctx, s, agent)
		case s.Kind == Pod:
			err = c.label(ctx, s.Pod, s.Parked, false)
		default:
			err = unknownKind(s.Kind)
		}
		if !apierrors.IsConflict(err) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
	return changedByOthers("shift", o)
}

// Unshift brings the originals back, unless somebody has done so: then theirs is the
// newer wish; or unless another session has the target by now. It may be repeated, and
// repeats until ctx ends while the API server is away.
func (c *Cluster) Unshift(ctx context.Context, s Shift, agent string) (Outcome, error) {
	o := s.Object()
	for try := range markTries {
		w, err := c.read(ctx, o)
		switch {
		case isMissing(err):
			return Gone, c.freeSlotOf(ctx, s, agent)
		case err != nil:
			return Returned, err
		case markOfAnother(w, agent) != nil:
			return Taken, c.freeSlotOf(ctx, s, agent)
		case s.Kind.parks():
			err = c.label(ctx, s.Pod, s.Parked, true)
			if freed := c.freeSlotOf(ctx, s, agent); err == nil {
				err = freed
			}
		default:
			err = c.bringBack(ctx, w, s)
		}
		switch {
		case isMissing(err):
			return Gone, nil
		case !apierrors.IsConflict(err):
			return Returned, err
		}
		if err := pause(ctx, try); err != nil {
			return Returned, err
		}
	}
	return Returned, changedByOthers("bring back", o)
}

func changedByOthers(doing string, o Object) error {
	return fmt.Errorf("%s %s: it was changed by others each time, %d times in a row; try again", doing, o, markTries)
}

// markOfAnother is the mark of another session than the agent's; nil where there is none.
func markOfAnother(w *workload, agent string) *Mark {
	m, err := markOf(w)
	if err != nil || m == nil || agent == "" || m.ID == manifests.SessionOf(agent) { // records of old versions name no agent
		return nil
	}
	return m
}

// bringBack scales up or resumes what Shift has scaled down or suspended; where it has not, or somebody has
// undone it, a Shift that is on its way is kept out.
func (c *Cluster) bringBack(ctx context.Context, w *workload, s Shift) error {
	switch {
	case s.Kind.scales() && w.replicas == 0:
		return c.scale(ctx, w, s.Replicas)
	case s.Kind.runsOnce() && s.Suspended:
		return nil
	case s.Kind.runsOnce() && w.suspended:
		return c.suspend(ctx, w, false)
	}
	if m, err := markOf(w); err == nil && m != nil && !m.Restoring {
		_, err := c.fence(ctx, w, *m)
		return err
	}
	return nil
}

// scale sets replicas through the scale subresource, which cannot touch the template.
func (c *Cluster) scale(ctx context.Context, read *workload, replicas int32) error {
	if read.replicas == replicas {
		return nil
	}
	// The answer is a Scale and no workload: only the error matters.
	return c.alter(ctx, "scale", read, map[string]any{"spec": map[string]any{"replicas": replicas}}, "scale")
}

func (c *Cluster) suspend(ctx context.Context, read *workload, suspend bool) error {
	if read.suspended == suspend {
		return nil
	}
	return c.alter(ctx, "suspend", read, map[string]any{"spec": map[string]any{"suspend": suspend}})
}

// alter changes the version that was read. One that is gone is a *NotFoundError, another version a conflict.
func (c *Cluster) alter(ctx context.Context, verb string, read *workload, fields map[string]any, subresources ...string) error {
	patch, err := versionPatch(read, fields)
	if err != nil {
		return err
	}
	o := read.object()
	return c.insistOn(ctx, verb, o, func(ctx context.Context) error {
		_, err := c.patch(ctx, o, patch, subresources...)
		return err
	})
}

// label takes labels off a pod, or puts them on.
func (c *Cluster) label(ctx context.Context, pod string, labels map[string]string, on bool) error {
	if len(labels) == 0 {
		return nil
	}
	values := make(map[string]any, len(labels))
	for key, value := range labels {
		values[key] = nil
		if on {
			values[key] = value
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": values}})
	if err != nil {
		return fmt.Errorf("write patch: %w", err)
	}
	o := Object{Kind: Pod, Name: pod}
	return c.insistOn(ctx, "label", o, func(ctx context.Context) error {
		_, err := c.patch(ctx, o, patch)
		return err
	})
}

// insistOn is insist for a change of an object: one that is gone is a *NotFoundError.
func (c *Cluster) insistOn(ctx context.Context, verb string, o Object, do func(context.Context) error) error {
	err := c.insistChange(ctx, verb+" "+o.String(), do)
	if apierrors.IsNotFound(err) {
		return c.gone(o, err)
	}
	return err
}

// The place of a DaemonSet's pod.
//
// The controller (pkg/controller/daemon, podsShouldBeOnNode) counts, on each node, the
// pods that match its selector and have it or nobody as their controller. It makes one
// where there is none, and of several that are not on their way out it deletes all but the
// oldest, which would be the agent's if both counted for a moment. So the agent's pod
// is made with the original as its controller, and does not count. To change places, first a
// pod is made that no node ever runs, and is deleted but for a finalizer: while it is on
// its way out, its node has a pod, so the controller makes none, and it is not one
// too many. Then the original loses its labels, the agent becomes the controller's, and
// the place holder goes. Back again it is enough to give the original its labels:
// it is the older one.

const slotFinalizer = "teleswap.dev/slot"

func slotName(agent string) string { return agent + "-slot" }

func (c *Cluster) takeSlot(ctx context.Context, s Shift, agent string) error {
	set, err := c.client.AppsV1().DaemonSets(c.namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if err != nil {
		return c.explain("read "+s.Object().String(), err)
	}
	pod, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, s.Pod, metav1.GetOptions{})
	if err != nil {
		return c.explain("read pod/"+s.Pod, err)
	}
	yes := true
	owner := metav1.OwnerReference{APIVersion: DaemonSet.apiVersion(), Kind: string(DaemonSet), Name: set.Name, UID: set.UID, Controller: &yes}
	place := manifests.PlaceHolder(slotName(agent), manifests.SessionOf(agent), slotFinalizer, pod, owner)
	err = c.insistChange(ctx, "make pod/"+place.Name, func(ctx context.Context) error {
		_, err := c.client.CoreV1().Pods(c.namespace).Create(ctx, place, metav1.CreateOptions{})
		return err
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	now := int64(0)
	err = c.insistOn(ctx, "delete", Object{Kind: Pod, Name: place.Name}, func(ctx context.Context) error {
		return c.client.CoreV1().Pods(c.namespace).Delete(ctx, place.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	})
	if err != nil && !isMissing(err) {
		return err
	}
	if err := c.label(ctx, s.Pod, s.Parked, false); err != nil {
		return err
	}
	if err := c.own(ctx, agent, owner); err != nil {
		return err
	}
	return c.freeSlot(ctx, agent)
}

// own makes a pod the controller's.
func (c *Cluster) own(ctx context.Context, pod string, owner metav1.OwnerReference) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []metav1.OwnerReference{owner}}})
	if err != nil {
		return fmt.Errorf("write patch: %w", err)
	}
	o := Object{Kind: Pod, Name: pod}
	return c.insistOn(ctx, "give an owner to", o, func(ctx context.Context) error {
		_, err := c.patch(ctx, o, patch)
		return err
	})
}

// freeSlotOf is freeSlot where there may be one.
func (c *Cluster) freeSlotOf(ctx context.Context, s Shift, agent string) error {
	if s.Kind != DaemonSet {
		return nil
	}
	return c.freeSlot(ctx, agent)
}

// freeSlot lets the place holder go. None is success.
func (c *Cluster) freeSlot(ctx context.Context, agent string) error {
	err := c.insistChange(ctx, "free the place of the pod", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Pods(c.namespace).Patch(ctx, slotName(agent), types.MergePatchType,
			[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil {
			return err
		}
		now := int64(0) // it may not have been deleted yet
		return c.client.CoreV1().Pods(c.namespace).Delete(ctx, slotName(agent), metav1.DeleteOptions{GracePeriodSeconds: &now})
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Serving is how many of the originals count as ready; zero if the target is gone.
func (c *Cluster) Serving(ctx context.Context, s Shift) (int32, error) {
	if s.Kind.parks() {
		return 0, nil // the labels are gone at once
	}
	w, err := c.get(ctx, s.Object())
	if err != nil || w == nil || s.Kind == CronJob {
		return 0, err
	}
	return w.ready, nil
}

// isMissing reports an object that does not exist.
func isMissing(err error) bool { return apierrors.IsNotFound(err) }
