package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestChangeIsNotCutOff ends the caller's context while the API server is at a change: it makes it all the same, so the caller must
// know, or what undoes it would come before it.
func TestChangeIsNotCutOff(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			arrived <- struct{}{}
			<-release
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(&appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}})
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(context.Context, *Cluster) error{
		"mark": func(ctx context.Context, c *Cluster) error {
			return c.putMark(ctx, &workload{kind: Deployment, meta: metav1.ObjectMeta{Name: "web"}}, Mark{}, c.change)
		},
		"scale": func(ctx context.Context, c *Cluster) error {
			return c.scale(ctx, &workload{kind: Deployment, replicas: 1, meta: metav1.ObjectMeta{Name: "web"}}, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := onFake(nil)
			c.client = client
			ctx, cancel := context.WithCancel(t.Context())
			changed := make(chan error, 1)
			go func() { changed <- change(ctx, c) }()
			<-arrived
			cancel()
			select {
			case err := <-changed:
				t.Errorf("given up while the API server was at it: %v", err)
				release <- struct{}{}
				return
			case <-time.After(100 * time.Millisecond):
			}
			release <- struct{}{}
			if err := <-changed; err != nil {
				t.Errorf("it was made, and said to have failed: %v", err)
			}
			if err := change(ctx, c); err == nil {
				t.Error("a change was begun for a caller who had gone")
			}
		})
	}
}
