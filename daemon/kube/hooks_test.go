package kube

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestHooks(t *testing.T) {
	handler := func(get corev1.HTTPGetAction) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{HTTPGet: &get}
	}
	for _, c := range []struct {
		name string
		h    *corev1.LifecycleHandler
		want string
	}{
		{"none", nil, "<nil>"},
		{"exec", &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "a b"}}}, `&{["sh" "-c" "a b"] "" [] "0s"}`},
		{"sleep", &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}, `&{[] "" [] "3s"}`},
		{"http", handler(corev1.HTTPGetAction{Path: "/bye", Port: intstr.FromInt32(99)}), `&{[] "http://10.0.0.9:99/bye" [] "0s"}`},
		{
			"http, all of it",
			handler(corev1.HTTPGetAction{
				Path: "bye?x=1", Port: intstr.FromString("admin"), Host: "::1", Scheme: "HTTPS",
				HTTPHeaders: []corev1.HTTPHeader{{Name: "A", Value: "b"}},
			}),
			`&{[] "https://[::1]:9090/bye?x=1" ["A: b"] "0s"}`,
		},
		{"tcp", &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{}}, "<nil>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &workload{}
			w.template.Spec.Containers = []corev1.Container{
				{Name: "sidecar"},
				{
					Name: "app", Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 9090}},
					Lifecycle: &corev1.Lifecycle{PreStop: c.h},
				},
			}
			target := &Target{Container: "app", work: w}
			start, stop := target.Hooks("10.0.0.9")
			got := "<nil>"
			if stop != nil {
				got = fmt.Sprintf("&{%q %q %q %q}", stop.Command, stop.URL, stop.Headers, stop.Sleep)
			}
			if got != c.want || start != nil {
				t.Errorf("got %s (postStart %v), want %s", got, start, c.want)
			}
		})
	}
}

func TestGrace(t *testing.T) {
	w := &workload{}
	target := &Target{work: w}
	if got := target.Grace(); got != 30*time.Second {
		t.Errorf("without a word %s, want Kubernetes' 30 s", got)
	}
	seconds := int64(7)
	w.template.Spec.TerminationGracePeriodSeconds = &seconds
	if got := target.Grace(); got != 7*time.Second {
		t.Errorf("got %s, want 7s", got)
	}
}
