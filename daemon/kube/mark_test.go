package kube

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// versioned makes a fake client check a patch's resourceVersion, as the API server does,
// and count versions up.
func versioned(t *testing.T, client *fake.Clientset) {
	t.Helper()
	version := 1
	client.PrependReactor("patch", "deployments", func(action k8stesting.Action) (bool, runtime.Object, error) {
		patch := action.(k8stesting.PatchActionImpl)
		var sent struct {
			Metadata struct {
				ResourceVersion string         `json:"resourceVersion"`
				UID             string         `json:"uid"`
				Annotations     map[string]any `json:"annotations"`
			} `json:"metadata"`
			Spec *struct {
				Replicas int32 `json:"replicas"`
			} `json:"spec"`
		}
		if err := json.Unmarshal(patch.Patch, &sent); err != nil {
			t.Error(err)
		}
		scales := patch.Subresource == "scale"
		if sent.Metadata.ResourceVersion == "" || sent.Metadata.UID == "" || (len(sent.Metadata.Annotations) == 1) == scales || (sent.Spec != nil) != scales {
			t.Errorf("patch %s", patch.Patch)
		}
		object, err := client.Tracker().Get(action.GetResource(), "shop", patch.Name)
		if err != nil {
			return true, nil, err
		}
		d := object.(*appsv1.Deployment).DeepCopy()
		if sent.Metadata.ResourceVersion != d.ResourceVersion {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Group: "apps", Resource: "deployments"}, patch.Name, errors.New("changed"))
		}
		version++
		d.ResourceVersion = strconv.Itoa(version)
		if scales {
			*d.Spec.Replicas = sent.Spec.Replicas
		} else if value, isText := sent.Metadata.Annotations[MarkAnnotation].(string); isText {
			d.Annotations = map[string]string{MarkAnnotation: value}
		} else {
			delete(d.Annotations, MarkAnnotation)
		}
		return true, d, client.Tracker().Update(action.GetResource(), d, "shop")
	})
}

func TestMarkAfterAChange(t *testing.T) {
	client := fake.NewClientset(deploymentOf("web"))
	versioned(t, client)
	c := onFake(client)
	target, err := c.Resolve(t.Context(), Ref{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	// Somebody scales between Resolve and Mark.
	scaled := deploymentOf("web", func(d *appsv1.Deployment) { *d.Spec.Replicas = 5; d.ResourceVersion = "9" })
	if err := client.Tracker().Update(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, scaled, "shop"); err != nil {
		t.Fatal(err)
	}
	mine := Mark{ID: "mine", User: "jane", Host: "laptop", Since: time.Unix(1e9, 0).UTC(), Replicas: 2, Agent: agentName}
	got, err := c.Mark(t.Context(), target, mine)
	if err != nil || got.Replicas != 5 {
		t.Fatalf("mark = %+v, %v; want the 5 replicas of now", got, err)
	}
	held, err := c.ReadMark(t.Context(), Object{Name: "web"})
	if err != nil || held == nil || !reflect.DeepEqual(*held, got) {
		t.Errorf("held %+v, %v, want %+v", held, err, got)
	}
	if again, err := c.Mark(t.Context(), target, mine); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("marking again: %+v, %v", again, err)
	}
	var swapped *AlreadySwappedError
	if _, err := c.Mark(t.Context(), target, Mark{ID: "theirs"}); !errors.As(err, &swapped) || !reflect.DeepEqual(swapped.Mark, got) {
		t.Errorf("marking another's: %v", err)
	}
	if err := c.Unmark(t.Context(), Object{Name: "web"}, "theirs"); err != nil {
		t.Error(err)
	}
	if held, err := c.ReadMark(t.Context(), Object{Name: "web"}); err != nil || held == nil {
		t.Errorf("another's unmark: %v, %v", held, err)
	}
	for range 2 {
		if err := c.Unmark(t.Context(), Object{Name: "web"}, "mine"); err != nil {
			t.Error(err)
		}
	}
	if held, err := c.ReadMark(t.Context(), Object{Name: "web"}); err != nil || held != nil {
		t.Errorf("after unmark: %v, %v", held, err)
	}
	if err := c.Unmark(t.Context(), Object{Name: "gone"}, "mine"); err != nil {
		t.Errorf("unmark of a target that is gone: %v", err)
	}
}

func TestUnmarkCleansReplicaSets(t *testing.T) {
	copyOf := func(name, id string) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "shop", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{MarkAnnotation: `{"id":"` + id + `"}`, "keep": "me"},
		}}
	}
	client := fake.NewClientset(deploymentOf("web", marked), copyOf("web-1", "k3f9qz"), copyOf("web-0", "older"))
	versioned(t, client)
	c := onFake(client)
	if err := c.Unmark(t.Context(), Object{Name: "web"}, "k3f9qz"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"web-1": false, "web-0": true} {
		set, err := client.AppsV1().ReplicaSets("shop").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, found := set.Annotations[MarkAnnotation]; found != want || set.Annotations["keep"] != "me" {
			t.Errorf("%s has %v", name, set.Annotations)
		}
	}
	// Without the permission the copy stays, and that is no failure.
	client = fake.NewClientset(deploymentOf("web", marked), copyOf("web-1", "k3f9qz"))
	versioned(t, client)
	client.PrependReactor("patch", "replicasets", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, denial("jane", "patch", "apps", "replicasets")
	})
	if err := onFake(client).Unmark(t.Context(), Object{Name: "web"}, "k3f9qz"); err != nil {
		t.Error(err)
	}
}
