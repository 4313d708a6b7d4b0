package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Notify is called with a line on what is being waited for, whenever that changes.
// Nil is allowed. It is called from the goroutine that waits.
type Notify func(line string)

// verdict is what a wait thinks of the state that it sees.
type verdict struct {
	done bool
	err  error  // waiting longer cannot help
	note string // what is being waited for, when that deserves saying
	// again is after which time to judge once more though nothing has changed; 0: not before a change.
	again time.Duration
}

// source keeps a set of objects up to date. It hands each change to updates, to be
// applied by the waiting goroutine, so that the state needs no lock. It returns nil
// once ctx has ended.
type source interface {
	follow(ctx context.Context, c *Cluster, updates chan<- func()) error
}

// wait follows the sources until judge, which is asked after each change and when it wants to be, is done or
// fails. All goroutines have ended when it returns.
func (c *Cluster) wait(ctx context.Context, doing string, notify Notify, judge func() verdict, sources ...source) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	following, cancel := context.WithCancel(ctx)
	defer cancel()
	updates, failed := make(chan func()), make(chan error)
	for _, s := range sources {
		wg.Go(func() {
			if err := s.follow(following, c, updates); err != nil {
				select {
				case failed <- err:
				case <-following.Done():
				}
			}
		})
	}
	note := ""
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			if note != "" {
				return fmt.Errorf("%s: %w; last seen: %s", doing, ctx.Err(), note)
			}
			return fmt.Errorf("%s: %w", doing, ctx.Err())
		case err := <-failed:
			return c.explain(doing, err)
		case apply := <-updates:
			apply()
		case <-again:
		}
		v := judge()
		if v.err != nil || v.done {
			return v.err
		}
		if v.note != note && v.note != "" && notify != nil {
			notify(v.note)
		}
		note, again = v.note, nil
		if v.again > 0 {
			again = time.After(v.again)
		}
	}
}

// objects is a source: one kind of object, listed and then watched.
type objects[T metav1.Object] struct {
	what     string // for errors: "pods"
	options  metav1.ListOptions
	list     func(context.Context, metav1.ListOptions) (items []T, version string, err error)
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	optional bool          // whoever may not see them does without
	delay    time.Duration // look only after this time

	// Owned by the goroutine that waits.
	items  map[types.UID]T
	synced bool
}

func (o *objects[T]) follow(ctx context.Context, c *Cluster, updates chan<- func()) error {
	if o.delay > 0 {
		timer := time.NewTimer(o.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
	for try := 0; ; try++ {
		listed, err := o.pass(ctx, c, updates)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && o.optional && !isPassing(err):
			c.log.Debug("doing without", "what", o.what, "err", err)
			return nil
		case err != nil && !isPassing(err) && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err):
			return fmt.Errorf("watch %s: %w", o.what, err)
		}
		if listed {
			try = 0
		}
		c.log.Debug("watching again", "what", o.what, "err", err)
		if pause(ctx, try) != nil {
			return nil
		}
	}
}

// pass lists, then watches until the watch ends. listed tells that the server answered.
func (o *objects[T]) pass(ctx context.Context, c *Cluster, updates chan<- func()) (listed bool, err error) {
	var (
		items   []T
		version string
	)
	err = c.once(ctx, func(ctx context.Context) error {
		items, version, err = o.list(ctx, o.options)
		return err
	})
	if err != nil {
		return false, err
	}
	if !send(ctx, updates, func() { o.reset(items) }) {
		return true, ctx.Err()
	}
	options := o.options
	options.ResourceVersion = version
	options.AllowWatchBookmarks = true
	w, err := o.watch(ctx, options)
	if err != nil {
		return true, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case event, open := <-w.ResultChan():
			if !open {
				return true, nil
			}
			if event.Type == watch.Error {
				return true, apierrors.FromObject(event.Object)
			}
			item, fits := event.Object.(T)
			if !fits || event.Type == watch.Bookmark {
				continue
			}
			if !send(ctx, updates, func() { o.apply(event.Type, item) }) {
				return true, ctx.Err()
			}
		}
	}
}

func send(ctx context.Context, updates chan<- func(), update func()) bool {
	select {
	case updates <- update:
		return true
	case <-ctx.Done():
		return false
	}
}

func (o *objects[T]) reset(items []T) {
	o.items = make(map[types.UID]T, len(items))
	for _, item := range items {
		o.items[item.GetUID()] = item
	}
	o.synced = true
}

func (o *objects[T]) apply(kind watch.EventType, item T) {
	if kind == watch.Deleted {
		delete(o.items, item.GetUID())
		return
	}
	o.items[item.GetUID()] = item
}

// only is the one object of a source that was selected by name.
func (o *objects[T]) only() (item T, found bool) {
	for _, item := range o.items {
		return item, true
	}
	return item, false
}
