package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// surroundings is what is read of a target at once.
type surroundings struct {
	work        *workload
	services    []corev1.Service
	autoscalers []autoscalingv2.HorizontalPodAutoscaler
	notes       []string
	// pod is the pod that the user named, of a workload that owns it; empty otherwise.
	pod string
}

// look reads everything in one round trip. A kind that is empty stands for all.
func (c *Cluster) look(ctx context.Context, kind Kind, name string) (surroundings, error) {
	var (
		out              surroundings
		wg               sync.WaitGroup
		failed, services error
	)
	wg.Go(func() { failed = c.lookUp(ctx, kind, name, &out) })
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
	if failed != nil {
		return out, failed
	}
	return out, services
}

// lookUp finds the object, and the one that makes it what it is.
func (c *Cluster) lookUp(ctx context.Context, kind Kind, name string, out *surroundings) error {
	w, err := c.named(ctx, kind, name)
	if err != nil {
		return err
	}
	if w == nil {
		return c.unknownTarget(ctx, kind, name)
	}
	return c.followOwners(ctx, w, out)
}

// named is the one object of that name; nil: there is none.
func (c *Cluster) named(ctx context.Context, kind Kind, name string) (*workload, error) {
	kinds := Kinds()
	if kind != "" {
		kinds = []Kind{kind}
	}
	found, errs := make([]*workload, len(kinds)), make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, k := range kinds {
		wg.Go(func() { found[i], errs[i] = c.get(ctx, Object{Kind: k, Name: name}) })
	}
	wg.Wait()
	var one *workload
	var failure error
	several := &AmbiguousError{Name: name, Namespace: c.namespace}
	for i := range kinds {
		switch {
		case errs[i] != nil && (i == 0 || !isDenied(errs[i])):
			// The first counts; of the others only that the user may not look there is no
			// reason to fail.
			if failure == nil {
				failure = errs[i]
			}
		case found[i] != nil:
			several.Targets = append(several.Targets, found[i].object().String())
			if one == nil {
				one = found[i]
			}
		}
	}
	switch {
	case len(several.Targets) > 1:
		return nil, several
	case one != nil:
		return one, nil
	}
	return nil, failure
}

// followOwners goes from a pod or ReplicaSet to what would make it anew.
func (c *Cluster) followOwners(ctx context.Context, w *workload, out *surroundings) error {
	first := w
	for range 3 { // a pod, its ReplicaSet, its Deployment
		owner := w.owner()
		if owner == nil || w.isAgent() || w.kind != Pod && w.kind != ReplicaSet {
			break
		}
		kind := Kind(owner.Kind)
		parsed, known := ParseKind(owner.Kind)
		if !known || parsed != kind || kind.apiVersion() != owner.APIVersion {
			return &UnsupportedError{
				Target: w.object().String(),
				Reason: fmt.Sprintf("it belongs to %s/%s (%s), which would put another in its place, and which Teleswap does not know how to hold back", strings.ToLower(owner.Kind), owner.Name, owner.APIVersion),
				Hint:   "swap a workload of your own, or one of the kinds " + kindList(),
			}
		}
		parent, err := c.get(ctx, Object{Kind: kind, Name: owner.Name})
		if err != nil {
			return err
		}
		if parent == nil || parent.meta.UID != owner.UID {
			return &UnsupportedError{
				Target: w.object().String(),
				Reason: fmt.Sprintf("it belongs to %s/%s, which is gone, so it is about to go, too", strings.ToLower(owner.Kind), owner.Name),
			}
		}
		if w.kind == Pod {
			out.pod = w.meta.Name
		}
		w = parent
	}
	if w != first {
		out.notes = append(out.notes, fmt.Sprintf("%s belongs to %s, so that is what is swapped", first.object(), w.object()))
	}
	out.work = w
	return nil
}

// unknownTarget makes the error for a target that is missing: perhaps the namespace
// is, perhaps the name is nearly right.
func (c *Cluster) unknownTarget(ctx context.Context, kind Kind, name string) error {
	var (
		wg          sync.WaitGroup
		names, full []string
		namespace   error
	)
	wanted := Object{Kind: kind, Name: name}.String()
	if kind == "" {
		wanted = name
	}
	wg.Go(func() { namespace = c.checkNamespace(ctx, wanted) })
	wg.Go(func() {
		targets, err := c.Targets(ctx)
		if err != nil {
			c.log.Debug("no names to suggest", "err", err)
			return
		}
		for _, t := range targets {
			names = append(names, t.Name)
			full = append(full, Object{Kind: t.Kind, Name: t.Name}.String())
		}
	})
	wg.Wait()
	if namespace != nil {
		return namespace
	}
	e := &NotFoundError{What: "target", Name: name, Namespace: c.namespace}
	if kind != "" {
		e.What = kind.String()
	}
	e.Hint = "`teleswap list` shows what can be swapped in a namespace; --namespace names another one"
	if len(names) == 0 {
		e.Hint = fmt.Sprintf("namespace %s has nothing that can be swapped; --namespace names another one (see `teleswap list`)", c.namespace)
	}
	for _, near := range nearest(name, names) {
		for i := range names {
			if names[i] == near {
				e.Near = appendNew(e.Near, full[i])
			}
		}
	}
	e.Names = few(full)
	return e
}

func appendNew(list []string, text string) []string {
	for _, have := range list {
		if have == text {
			return list
		}
	}
	return append(list, text)
}

// checkNamespace says whether the namespace, in which a target was looked for, is
// known not to exist. Nil where the user may not ask.
func (c *Cluster) checkNamespace(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, err := c.client.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return nil
	}
	e := &NotFoundError{
		What: "namespace", Name: c.namespace,
		Hint: fmt.Sprintf("%s must be elsewhere: name its namespace with --namespace; `kubectl get namespaces` lists them", target),
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
