package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func greeting(name, greets string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Labels: map[string]string{greetingLabel: "true"}},
		Data:       map[string]string{"name": greets},
	}
}

func TestAnswer(t *testing.T) {
	client := fake.NewClientset(greeting("a", "Ann"))
	c := &controller{client: client, namespace: "ns", by: "me"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watching := make(chan error, 1)
	watchCtx, stop := context.WithCancel(ctx)
	go func() { watching <- c.watch(watchCtx) }()
	for {
		cm, err := client.CoreV1().ConfigMaps("ns").Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := cm.Data["answer"]; got != "" {
			if want := "Hello Ann, says me"; got != want {
				t.Errorf("answer: got %q, want %q", got, want)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-watching; err != nil {
		t.Error(err)
	}
}

func TestAdmission(t *testing.T) {
	c := &controller{by: "me"}
	for _, tt := range []struct {
		name, body, message string
		status              int
		allowed             bool
	}{
		{"greets", `{"request":{"uid":"u","object":{"data":{"name":"Ann"}}}}`, "", http.StatusOK, true},
		{"greets nobody", `{"request":{"uid":"u","object":{"data":{}}}}`, "whom to greet? asks me", http.StatusOK, false},
		{"no review", `{}`, "", http.StatusBadRequest, false},
		{"no JSON", `<`, "", http.StatusBadRequest, false},
		{"no ConfigMap", `{"request":{"uid":"u","object":[]}}`, "", http.StatusBadRequest, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			c.serveAdmission(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tt.body)))
			if w.Code != tt.status {
				t.Fatalf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if tt.status != http.StatusOK {
				return
			}
			var review admissionv1.AdmissionReview
			if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil {
				t.Fatal(err)
			}
			if review.Response.UID != "u" || review.Response.Allowed != tt.allowed {
				t.Errorf("got %+v", review.Response)
			}
			if tt.message != "" && !strings.Contains(review.Response.Result.Message, tt.message) {
				t.Errorf("message %q, want %q in it", review.Response.Result.Message, tt.message)
			}
		})
	}
}
