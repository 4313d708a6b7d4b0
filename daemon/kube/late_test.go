package kube

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

var errLost = errors.New("the answer is lost")

// late is an API server that makes one change later than it should: who sent it got no answer.
type late struct {
	*fake.Clientset
	patch *k8stesting.PatchActionImpl
}

// newLate keeps the next patch back.
func newLate(t *testing.T, objects ...runtime.Object) *late {
	t.Helper()
	l := &late{Clientset: fake.NewClientset(objects...)}
	versioned(t, l.Clientset)
	l.PrependReactor("patch", "deployments", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if l.patch != nil {
			return false, nil, nil
		}
		patch := action.(k8stesting.PatchActionImpl)
		l.patch = &patch
		return true, nil, errLost
	})
	return l
}

// arrive makes it now.
func (l *late) arrive(ctx context.Context) error {
	p := l.patch
	var sub []string
	if p.Subresource != "" {
		sub = append(sub, p.Subresource)
	}
	_, err := l.AppsV1().Deployments("shop").Patch(ctx, p.Name, types.MergePatchType, p.Patch, metav1.PatchOptions{}, sub...)
	return err
}

// resolveMarked resolves web, and marks it for the session of agentName.
func resolveMarked(ctx context.Context, t *testing.T, c *Cluster) (*Target, Mark) {
	t.Helper()
	target, err := c.Resolve(ctx, Ref{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	mark, err := c.Mark(ctx, target, Mark{ID: "k3f9qz", Agent: agentName})
	if err != nil {
		t.Fatal(err)
	}
	return target, mark
}

// TestLateMark undoes a mark that the API server has not made yet.
func TestLateMark(t *testing.T) {
	client := newLate(t, deploymentOf("web"))
	c, ctx := onFake(client), t.Context()
	target, err := c.Resolve(ctx, Ref{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Mark(ctx, target, Mark{ID: "k3f9qz", Agent: agentName}); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	if err := c.Unmark(ctx, Object{Name: "web"}, "k3f9qz"); err != nil {
		t.Fatal(err)
	}
	if err := client.arrive(ctx); !apierrors.IsConflict(err) {
		t.Errorf("the mark came after its undo: %v", err)
	}
	if m, err := c.ReadMark(ctx, Object{Name: "web"}); m != nil || err != nil {
		t.Errorf("left: %+v, %v", m, err)
	}
}

// TestLateShift undoes a scaling down that the API server has not made yet.
func TestLateShift(t *testing.T) {
	web := deploymentOf("web")
	client := newLate(t, web)
	client.patch = &k8stesting.PatchActionImpl{} // not the mark
	c, ctx := onFake(client), t.Context()
	target, mark := resolveMarked(ctx, t, c)
	client.patch = nil
	shift := mark.Shift(target.Object())
	if err := c.Shift(ctx, shift, agentName); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	for range 2 {
		if outcome, err := c.Unshift(ctx, shift, agentName); outcome != Returned || err != nil {
			t.Fatal(outcome, err)
		}
	}
	if err := client.arrive(ctx); !apierrors.IsConflict(err) {
		t.Errorf("the originals went after they were brought back: %v", err)
	}
	if err := c.Unmark(ctx, Object{Name: "web"}, "k3f9qz"); err != nil {
		t.Error(err)
	}
	if err := client.arrive(ctx); !apierrors.IsConflict(err) {
		t.Errorf("the originals went after all was restored: %v", err)
	}
	w, err := c.get(ctx, Object{Name: "web"})
	if err != nil || w.replicas != *web.Spec.Replicas || len(w.meta.Annotations) != len(web.Annotations) {
		t.Errorf("left: %d replicas, %v, %v", w.replicas, w.meta.Annotations, err)
	}
}

// TestUnshiftLeavesAnotherSession has somebody restore the target, and swap it anew.
func TestUnshiftLeavesAnotherSession(t *testing.T) {
	theirs := map[string]string{MarkAnnotation: `{"id":"bob234","user":"bob","host":"desk"}`}
	yes := true
	client := fake.NewClientset(
		deploymentOf("web", func(d *appsv1.Deployment) { d.Annotations = theirs; *d.Spec.Replicas = 0 }),
		&batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "nightly", Namespace: "shop", Annotations: theirs}, Spec: batchv1.CronJobSpec{Suspend: &yes}},
	)
	c := onFake(client)
	for _, s := range []Shift{{Name: "web", Replicas: 2}, {Kind: CronJob, Name: "nightly"}} {
		if outcome, err := c.Unshift(t.Context(), s, agentName); outcome != Taken || err != nil {
			t.Errorf("%s: %v, %v", s.Object(), outcome, err)
		}
		var swapped *AlreadySwappedError
		if err := c.Shift(t.Context(), s, agentName); !errors.As(err, &swapped) || swapped.Mark.Who() != "bob@desk" {
			t.Errorf("shift of %s: %v", s.Object(), err)
		}
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("%s of %s, which is another's", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

// TestRemark has the target scaled between mark and shift.
func TestRemark(t *testing.T) {
	client := fake.NewClientset(deploymentOf("web"))
	versioned(t, client)
	c, ctx := onFake(client), t.Context()
	target, mark := resolveMarked(ctx, t, c)
	if got, err := c.Remark(ctx, target, mark); err != nil || got.Replicas != mark.Replicas {
		t.Errorf("unchanged: %+v, %v", got, err)
	}
	w, err := c.get(ctx, target.Object())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.scale(ctx, w, 5); err != nil {
		t.Fatal(err)
	}
	others := true // somebody changes the target between its reading and its writing, once
	client.PrependReactor("patch", "deployments", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if others {
			others = false
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), "web", errors.New("changed"))
		}
		return false, nil, nil
	})
	got, err := c.Remark(ctx, target, mark)
	held, readErr := c.ReadMark(ctx, target.Object())
	if err != nil || readErr != nil || got.Replicas != 5 || held.Replicas != 5 || held.ID != mark.ID {
		t.Errorf("marked %+v, held %+v; %v, %v", got, held, err, readErr)
	}
	var swapped *AlreadySwappedError
	if _, err := c.Remark(ctx, target, Mark{ID: "theirs"}); !errors.As(err, &swapped) {
		t.Errorf("of another's: %v", err)
	}
}

// TestUnmarkPastABrokenWebhook undoes a mark that was refused: the fence is, too, and the undo is done all the same.
func TestUnmarkPastABrokenWebhook(t *testing.T) {
	for _, refusal := range []error{
		apierrors.NewInternalError(errors.New(`failed calling webhook "policy.example.com": connection refused`)),
		apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, "web", errors.New("not in this namespace")),
		&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 418, Message: `admission webhook "x" denied the request: no`}},
	} {
		synctest.Test(t, func(t *testing.T) {
			client := fake.NewClientset(deploymentOf("web"))
			client.PrependReactor("patch", "deployments", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, refusal })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := onFake(client).Unmark(ctx, Object{Name: "web"}, "k3f9qz"); err != nil {
				t.Errorf("%v: %v", refusal, err)
			}
		})
	}
}
