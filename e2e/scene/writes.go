package scene

import (
	"context"
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// Writes watches what is written to the kinds that the product writes to first:
// Deployments and Secrets. Status does not count.
type Writes struct {
	cancel context.CancelFunc
	watch  []watch.Interface
	found  chan []string
}

// WatchWrites begins now; every object must stay as it is until Stop.
func (w *World) WatchWrites() *Writes {
	w.T.Helper()
	ctx, cancel := context.WithCancel(w.T.Context())
	writes := &Writes{cancel: cancel, found: make(chan []string, 2)}
	for _, kind := range []schema.GroupVersionResource{
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Version: "v1", Resource: "secrets"},
	} {
		resource := w.Lab.Dyn.Resource(kind).Namespace(w.Namespace)
		list, err := resource.List(ctx, metav1.ListOptions{})
		w.must(err, "list %s", kind.Resource)
		before, err := Normalise(list.Items)
		w.must(err, "normalise %s", kind.Resource)
		watcher, err := resource.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
		w.must(err, "watch %s", kind.Resource)
		writes.watch = append(writes.watch, watcher)
		go func() { writes.found <- follow(watcher, before) }()
	}
	w.T.Cleanup(cancel)
	return writes
}

// follow ends when the watch does.
func follow(watcher watch.Interface, before Snapshot) []string {
	var found []string
	for event := range watcher.ResultChan() {
		o, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		one, err := Normalise([]unstructured.Unstructured{*o})
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		if event.Type == watch.Deleted {
			found = append(found, fmt.Sprintf("deleted: %s %s", o.GetKind(), o.GetName()))
			continue
		}
		was := Snapshot{}
		for key := range maps.Keys(one) {
			if text, ok := before[key]; ok {
				was[key] = text
			}
		}
		if diff := was.Diff(one); diff != "" {
			found = append(found, diff)
		}
	}
	return found
}

// Stop ends the watching and returns what was written since it began.
func (w *Writes) Stop() []string {
	var all []string
	for _, one := range w.watch {
		one.Stop()
		all = append(all, <-w.found...)
	}
	w.cancel()
	return all
}
