package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// greetingLabel is on the ConfigMaps that are the controller's business.
const greetingLabel = "example.teleswap.dev/greeting"

// controller answers ConfigMaps. Safe for concurrent use.
type controller struct {
	client    kubernetes.Interface
	namespace string
	by        string
}

// watch answers every ConfigMap with the label, now and whenever one changes, until ctx ends.
func (c *controller) watch(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithNamespace(c.namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = greetingLabel }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	handle := func(o any) {
		if cm, ok := o.(*corev1.ConfigMap); ok {
			if err := c.answer(ctx, cm); err != nil {
				log.Print(err)
			}
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    handle,
		UpdateFunc: func(_, o any) { handle(o) },
	}); err != nil {
		return fmt.Errorf("watch ConfigMaps: %w", err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// answer writes data.answer. Somebody else's change in between comes as an event of its own.
func (c *controller) answer(ctx context.Context, cm *corev1.ConfigMap) error {
	if cm.Data["answer"] != "" {
		return nil
	}
	cm = cm.DeepCopy()
	if cm.Data == nil {
		cm.Data = map[string]string{}
	}
	cm.Data["answer"] = fmt.Sprintf("Hello %s, says %s", cm.Data["name"], c.by)
	_, err := c.client.CoreV1().ConfigMaps(c.namespace).Update(ctx, cm, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("answer %s: %w", cm.Name, err)
	}
	return nil
}

// serveAdmission refuses ConfigMaps that greet nobody.
// https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
func (c *controller) serveAdmission(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
	if err == nil {
		err = json.Unmarshal(body, &review)
	}
	if err != nil || review.Request == nil {
		http.Error(w, "the body is no AdmissionReview", http.StatusBadRequest)
		return
	}
	var cm corev1.ConfigMap
	if err := json.Unmarshal(review.Request.Object.Raw, &cm); err != nil {
		http.Error(w, "the object is no ConfigMap", http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: cm.Data["name"] != ""}
	if !review.Response.Allowed {
		review.Response.Result = &metav1.Status{Message: "data.name is empty: whom to greet? asks " + c.by}
	}
	review.Request = nil
	answerJSON(w, review)
}

// handler serves /readyz, and /pods: who the API server says we are, and the pods that we see.
func (c *controller) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/pods", func(w http.ResponseWriter, r *http.Request) {
		self, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(r.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		list, err := c.client.CoreV1().Pods(c.namespace).List(r.Context(), metav1.ListOptions{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		names := []string{}
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		answerJSON(w, map[string]any{"by": c.by, "user": self.Status.UserInfo.Username, "pods": names})
	})
	return mux
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
