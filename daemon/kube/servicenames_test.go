package kube

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func TestServiceNames(t *testing.T) {
	objects := []runtime.Object{
		&corev1.Service{ObjectMeta: inShop("web")}, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "data"}},
	}
	got, err := onFake(fake.NewClientset(objects...)).ServiceNames(t.Context())
	if want := []string{"db.data", "web", "web.shop"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("of the whole cluster: %v, %v; want %v", got, err, want)
	}
	client := fake.NewClientset(objects...)
	client.PrependReactor("list", "services", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if action.GetNamespace() != "" {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "",
			errors.New(`User "jane" cannot list resource "services" in API group "" at the cluster scope`))
	})
	got, err = onFake(client).ServiceNames(t.Context())
	if want := []string{"web", "web.shop"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("of the namespace alone: %v, %v; want %v", got, err, want)
	}
}
