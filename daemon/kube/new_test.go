package kube

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func serviceNamed(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}
}

// allowing is a fake client of a user who may do everything.
func allowing(objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "selfsubjectaccessreviews", func(action k8stesting.Action) (bool, runtime.Object, error) {
		review := reviewOf(action)
		review.Status.Allowed = true
		return true, review, nil
	})
	client.PrependReactor("delete-collection", "*", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
	return client
}

func TestNewRefuses(t *testing.T) {
	eighty := []PortMap{{Local: 8080, Remote: 80}}
	for _, tc := range []struct {
		name  string
		ref   Ref
		wants []string
	}{
		{"a Deployment has the name", Ref{Name: "web"}, []string{"deployment/web exists in namespace shop already", "teleswap swap deployment/web"}},
		{"a Service has the name", Ref{Name: "front", Expose: eighty}, []string{"service/front cannot be made", "exists in namespace shop"}},
		{"no name for a Service", Ref{Name: "2fast"}, []string{"deployment/2fast", "no name for it", "the first a letter"}},
		{"unknown namespace", Ref{Name: "hello", Namespace: "shoop"}, []string{`namespace "shoop" not found`, "did you mean shop?"}},
		{"unknown ServiceAccount", Ref{Name: "hello", ServiceAccount: "robto"}, []string{`serviceaccount "robto" not found`, "did you mean robot?"}},
		{"a container that is none", Ref{Name: "hello", Container: "A b"}, []string{`"A b" is no name for its container`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			robot := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot", Namespace: "shop"}}
			c := onFake(allowing(namespaceOf("shop"), deploymentOf("web"), serviceNamed("front"), robot))
			tc.ref.New = true
			_, err := c.Resolve(t.Context(), tc.ref)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q misses %q", err, want)
				}
			}
		})
	}
}

func TestNewComesAndGoes(t *testing.T) {
	client := allowing(namespaceOf("shop"))
	c := onFake(client)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	target, err := c.Resolve(ctx, Ref{Name: "hello", New: true, Expose: []PortMap{{Local: 8080, Remote: 80}, {Local: 53, Remote: 53, UDP: true}}})
	if err != nil {
		t.Fatal(err)
	}
	agent := Agent{Session: "k3f9qz", Name: AgentName("hello", "k3f9qz"), Image: "agent:1", Keys: map[string][]byte{"ca.crt": []byte("x")}}
	mark := Mark{ID: "k3f9qz", Agent: agent.Name}
	for range 2 { // making twice is fine
		if err := c.CreateNew(ctx, target, agent, mark); err != nil {
			t.Fatal(err)
		}
	}
	service, err := client.CoreV1().Services("shop").Get(ctx, "hello", metav1.GetOptions{})
	if err != nil || len(service.Spec.Ports) != 2 || service.Spec.Ports[0].Port != 80 || service.Spec.Ports[1].Protocol != corev1.ProtocolUDP {
		t.Errorf("service %+v, %v", service, err)
	}
	marked, err := c.ListMarked(ctx, false)
	if err != nil || len(marked) != 1 || !marked[0].Mark.New || marked[0].Name != "hello" {
		t.Errorf("marked %+v, %v", marked, err)
	}
	// Another session gets neither the name nor what bears it.
	var swapped *AlreadySwappedError
	if _, err := c.Resolve(ctx, Ref{Name: "hello", New: true}); !errors.As(err, &swapped) {
		t.Errorf("the name is free: %v", err)
	}
	other := agent
	other.Session, other.Name = "other2", AgentName("hello", "other2")
	var taken *NewError
	if err := c.CreateNew(ctx, target, other, mark); !errors.As(err, &taken) {
		t.Errorf("made by two: %v", err)
	}
	if err := c.DeleteNew(ctx, "hello", other.Name, nil); err != nil {
		t.Error(err)
	}
	if _, err := client.AppsV1().Deployments("shop").Get(ctx, "hello", metav1.GetOptions{}); err != nil {
		t.Errorf("taken away by another session: %v", err)
	}
	for range 2 { // deleting twice is fine
		if err := c.DeleteNew(ctx, "hello", agent.Name, nil); err != nil {
			t.Fatal(err)
		}
	}
	deployments, err1 := client.AppsV1().Deployments("shop").List(ctx, metav1.ListOptions{})
	services, err2 := client.CoreV1().Services("shop").List(ctx, metav1.ListOptions{})
	secrets, err3 := client.CoreV1().Secrets("shop").List(ctx, metav1.ListOptions{})
	if err := errors.Join(err1, err2, err3); err != nil || len(deployments.Items)+len(services.Items)+len(secrets.Items) != 0 {
		t.Errorf("left: %v, %v, %v; %v", deployments, services, secrets, err)
	}
}

func TestNewName(t *testing.T) {
	for image, want := range map[string]string{
		"registry.example:5000/team/Web_App:1.2": "web-app",
		"nginx":                                  "nginx",
		"curlimages/curl@sha256:abc":             "curl",
		"3proxy":                                 "proxy",
		"42":                                     "",
		"shop/" + strings.Repeat("x", 39) + "-y": strings.Repeat("x", 39),
	} {
		if got := NewName(image); got != want {
			t.Errorf("NewName(%q) = %q, want %q", image, got, want)
		}
	}
}

func TestExplainNew(t *testing.T) {
	err := ExplainNew(&PodStuckError{Message: "exceeded quota: pods", Hint: refusalHint("exceeded quota: pods", Deployment)})
	if text := err.Error(); !strings.Contains(text, "ask for more quota") || strings.Contains(text, "scale-first") {
		t.Error(text)
	}
	if err := errors.New("x"); !errors.Is(ExplainNew(err), err) || ExplainNew(nil) != nil {
		t.Error("other errors are changed")
	}
}
