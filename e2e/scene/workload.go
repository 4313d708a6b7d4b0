package scene

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Apply makes the objects of a YAML text in the world's namespace. PROBE, SERVICE_A, SERVICE_B,
// SERVERS, CONTROLLER and QUIC in it stand for the images' references, NAMESPACE for the namespace.
func (w *World) Apply(text string) {
	w.T.Helper()
	im := w.Lab.Images
	text = w.withExtras(text)
	text = strings.NewReplacer("PROBE", im.Probe, "SERVICE_A", im.ServiceA, "SERVICE_B", im.ServiceB, "NAMESPACE", w.Namespace).Replace(text)
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var o unstructured.Unstructured
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return
		}
		w.must(err, "decode YAML")
		if len(o.Object) == 0 {
			continue
		}
		// The plural is regular for every kind that these tests use.
		plural, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		if clusterScoped(o.GetKind()) {
			w.createForAll(plural, &o)
			continue
		}
		_, err = w.Lab.Dyn.Resource(plural).Namespace(w.Namespace).Create(w.T.Context(), &o, metav1.CreateOptions{})
		w.must(err, "make %s %s", o.GetKind(), o.GetName())
	}
}

// clusterScoped are the kinds outside namespaces that these tests use. Their names must have
// NAMESPACE in them, since worlds share them.
func clusterScoped(kind string) bool {
	return slices.Contains([]string{"PersistentVolume", "ValidatingWebhookConfiguration", "ClusterRole", "ClusterRoleBinding"}, kind)
}

// createForAll makes an object outside the namespace; it goes with the test.
func (w *World) createForAll(kind schema.GroupVersionResource, o *unstructured.Unstructured) {
	w.T.Helper()
	if !strings.Contains(o.GetName(), w.Namespace) {
		w.T.Fatalf("%s %s is seen by all worlds: NAMESPACE must be in its name", o.GetKind(), o.GetName())
	}
	resource := w.Lab.Dyn.Resource(kind)
	_, err := resource.Create(w.T.Context(), o, metav1.CreateOptions{})
	w.must(err, "make %s %s", o.GetKind(), o.GetName())
	w.T.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.T.Context()), patience)
		defer cancel()
		if err := resource.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil {
			w.T.Errorf("delete %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	})
}

// ApplyGreet makes the scene of examples/greet, with the images of this run.
func (w *World) ApplyGreet() {
	w.T.Helper()
	dir := filepath.Join(w.Lab.Root, "examples", "greet", "manifests")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	w.must(err, "list %s", dir)
	if len(files) == 0 {
		w.T.Fatalf("no manifests in %s", dir)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		w.must(err, "read the scene")
		text := greetImage.ReplaceAllStringFunc(string(content), func(line string) string {
			image := "SERVICE_A"
			if strings.Contains(line, "service-b") {
				image = "SERVICE_B"
			}
			return line[:strings.Index(line, "image:")] + "image: " + image
		})
		w.Apply(text)
	}
}

var greetImage = regexp.MustCompile(`(?m)^[ -]*image: .*service-[ab].*$`)

// WaitAvailable waits until every Deployment of the namespace has all its pods Ready, and no
// pod is on its way out.
func (w *World) WaitAvailable() {
	w.T.Helper()
	w.Eventually("the Deployments to be available", func() string {
		list, err := w.Lab.Kube.AppsV1().Deployments(w.Namespace).List(w.T.Context(), metav1.ListOptions{})
		w.must(err, "list Deployments")
		for _, d := range list.Items {
			if want := *d.Spec.Replicas; d.Status.ObservedGeneration < d.Generation || d.Status.ReadyReplicas != want || d.Status.Replicas != want {
				return fmt.Sprintf("%s: %d of %d Ready", d.Name, d.Status.ReadyReplicas, want)
			}
		}
		pods, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).List(w.T.Context(), metav1.ListOptions{})
		w.must(err, "list pods")
		for _, p := range pods.Items {
			if p.DeletionTimestamp != nil {
				return p.Name + " is being deleted"
			}
		}
		return ""
	})
}

// Deployment reads one.
func (w *World) Deployment(name string) *appsv1.Deployment {
	w.T.Helper()
	d, err := w.Lab.Kube.AppsV1().Deployments(w.Namespace).Get(w.T.Context(), name, metav1.GetOptions{})
	w.must(err, "get deployment %s", name)
	return d
}

// DeploymentNames lists the namespace's Deployments, sorted.
func (w *World) DeploymentNames() []string {
	w.T.Helper()
	list, err := w.Lab.Kube.AppsV1().Deployments(w.Namespace).List(w.T.Context(), metav1.ListOptions{})
	w.must(err, "list Deployments")
	names := make([]string, 0, len(list.Items))
	for _, d := range list.Items {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return names
}

// RawTemplate is a Deployment's pod template as the API server writes it.
func (w *World) RawTemplate(name string) string {
	w.T.Helper()
	raw, err := w.Lab.Kube.AppsV1().RESTClient().Get().Namespace(w.Namespace).Resource("deployments").Name(name).DoRaw(w.T.Context())
	w.must(err, "get deployment %s", name)
	var d struct {
		Spec struct {
			Template json.RawMessage `json:"template"`
		} `json:"spec"`
	}
	w.must(json.Unmarshal(raw, &d), "decode deployment %s", name)
	return string(d.Spec.Template)
}

// Pods lists those of a label selector that are not on their way out.
func (w *World) Pods(selector string) []corev1.Pod {
	w.T.Helper()
	list, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).List(w.T.Context(), metav1.ListOptions{LabelSelector: selector})
	w.must(err, "list pods")
	var pods []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods
}

// EventuallyInVolume is Eventually for a change of a ConfigMap or Secret that a pod has as a volume. The kubelet looks at its pods' volumes
// every minute or so, and when a pod changes: so the pod gets a new annotation. The kubelet may hear of that first and of the object later,
// so that is done again after a while.
func (w *World) EventuallyInVolume(pod, what string, missing func() string) {
	w.T.Helper()
	const again = 2 * time.Second
	var touched time.Time
	w.Eventually(what, func() string {
		if now := time.Now(); now.Sub(touched) > again {
			touched = now
			note := fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/touched":%q}}}`, now.Format(time.RFC3339Nano))
			_, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).Patch(w.T.Context(), pod, types.MergePatchType, note, metav1.PatchOptions{})
			w.must(err, "touch pod %s", pod)
		}
		return missing()
	})
}

// Ready reports a pod's condition.
func Ready(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Token makes a short-lived credential of a ServiceAccount of the namespace.
func (w *World) Token(account string) Login {
	w.T.Helper()
	raw, err := w.Lab.Kube.CoreV1().RESTClient().Post().Namespace(w.Namespace).Resource("serviceaccounts").Name(account).SubResource("token").
		Body([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}`)).DoRaw(w.T.Context())
	w.must(err, "make a token of %s", account)
	var answer struct {
		Status struct{ Token string }
	}
	w.must(json.Unmarshal(raw, &answer), "decode the token of %s", account)
	return Login{Token: answer.Status.Token}
}

// Count is how many objects of a kind the namespace has.
func (w *World) Count(group, version, resource string) int {
	w.T.Helper()
	list, err := w.Lab.Dyn.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).
		Namespace(w.Namespace).List(w.T.Context(), metav1.ListOptions{})
	w.must(err, "list %s", resource)
	return len(list.Items)
}

// agentLogs keeps what the world's agents print, because their pods are gone when it
// matters. Safe for concurrent use.
type agentLogs struct {
	output
	cancel context.CancelFunc
	ended  chan struct{}
}

func (a *agentLogs) text() string { return a.String() }

// stop ends the following and returns everything.
func (a *agentLogs) stop() string {
	a.cancel()
	<-a.ended
	return a.String()
}

// followAgents follows the log of each agent pod that appears in the namespace, until the
// test ends.
func (w *World) followAgents() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.T.Context()))
	w.agents = &agentLogs{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.agents.ended)
		watcher, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: SessionLabel})
		if err != nil {
			return
		}
		defer watcher.Stop()
		following := map[string]chan struct{}{}
		for event := range watcher.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if ok && pod.Status.Phase == corev1.PodRunning && following[pod.Name] == nil {
				done := make(chan struct{})
				following[pod.Name] = done
				go w.followAgent(ctx, pod.DeepCopy(), done)
			}
		}
		for _, done := range following {
			<-done
		}
	}()
	w.T.Cleanup(cancel)
}

func (w *World) followAgent(ctx context.Context, pod *corev1.Pod, done chan struct{}) {
	defer close(done)
	for _, c := range pod.Spec.Containers {
		if !strings.Contains(c.Image, "agent") {
			continue
		}
		stream, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: c.Name, Follow: true}).Stream(ctx)
		if err != nil {
			continue
		}
		var text bytes.Buffer
		_, _ = io.Copy(&text, stream) // the pod goes while we read: what was read is what there is
		_ = stream.Close()
		_, _ = fmt.Fprintf(w.agents, "--- %s\n%s", pod.Name, text.Bytes())
	}
}

// Enforce sets the Pod Security Standard of the namespace: "restricted" unless this is called.
func (w *World) Enforce(level string) {
	w.T.Helper()
	patch := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"` + level + `"}}}`)
	_, err := w.Lab.Kube.CoreV1().Namespaces().Patch(w.T.Context(), w.Namespace, types.MergePatchType, patch, metav1.PatchOptions{})
	w.must(err, "set the Pod Security Standard of %s", w.Namespace)
}

// Scale sets a Deployment's replicas.
func (w *World) Scale(name string, replicas int) {
	w.T.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := w.Lab.Kube.AppsV1().Deployments(w.Namespace).Patch(w.T.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}, "scale")
	w.must(err, "scale deployment %s", name)
}
