package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// exampleYAML reads an example's manifests, with the image of this run.
func exampleYAML(w *scene.World, image, example string) string {
	w.T.Helper()
	files, err := filepath.Glob(filepath.Join(w.Lab.Root, "examples", example, "manifests", "*.yaml"))
	if err != nil || len(files) == 0 {
		w.T.Fatalf("manifests of %s: %v, %v", example, files, err)
	}
	var docs []string
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			w.T.Fatal(err)
		}
		docs = append(docs, exampleImage.ReplaceAllString(string(content), "${1}image: "+image))
	}
	return strings.Join(docs, "---\n")
}

var exampleImage = regexp.MustCompile(`(?m)^([ -]*)image: teleswap\.dev/example-.*$`)

// TestPodViewController swaps a controller: the API server's webhook calls come to the laptop, which
// shows the certificate of the mounted Secret, and client-go finds the cluster as in the pod.
func TestPodViewController(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		secret, certificate := tlsSecret(t, "controller-tls", "controller."+w.Namespace+".svc")
		w.Apply(secret)
		w.Apply(strings.ReplaceAll(exampleYAML(w, "CONTROLLER", "controller"), "CA_BUNDLE", base64.StdEncoding.EncodeToString([]byte(certificate))))
		c := w.NewClient()
		w.WaitAvailable()
		checkGreeting(w, "before", "the cluster")
		w.Freeze()
		run := w.Teleswap("swap", "controller", "--", w.Program("./examples/controller"), "-by", "the laptop")
		run.WaitSwapped()
		checkPods(w, c)
		checkGreeting(w, "during", "the laptop")
		run.SignalGroup(sigint)
		run.WaitEnd(0)
	})
}

// checkGreeting makes a ConfigMap that the controller must answer, and one that its webhook must
// refuse, as whoever it is now; then it removes the first.
func checkGreeting(w *scene.World, name, by string) {
	w.T.Helper()
	maps := w.Lab.Kube.CoreV1().ConfigMaps(w.Namespace)
	greeting := func(greets string) *corev1.ConfigMap {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"example.teleswap.dev/greeting": "true"}},
			Data:       map[string]string{"name": greets},
		}
	}
	// The node's rules for the Service follow the endpoints with a small delay.
	w.Eventually("a refusal by "+by, func() string {
		_, err := maps.Create(w.T.Context(), greeting(""), metav1.CreateOptions{})
		if err == nil {
			w.T.Fatal("a ConfigMap that greets nobody was not refused: the webhook was not called")
		}
		if !strings.Contains(err.Error(), "whom to greet? asks "+by) {
			return err.Error()
		}
		return ""
	})
	_, err := maps.Create(w.T.Context(), greeting("Ann"), metav1.CreateOptions{})
	if err != nil {
		w.T.Fatalf("make a ConfigMap that greets: %v", err)
	}
	w.Eventually("an answer by "+by, func() string {
		cm, err := maps.Get(w.T.Context(), name, metav1.GetOptions{})
		if err != nil {
			w.T.Fatal(err)
		}
		if got, want := cm.Data["answer"], "Hello Ann, says "+by; got != want {
			return fmt.Sprintf("%q, want %q", got, want)
		}
		return ""
	})
	if err := maps.Delete(w.T.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.T.Fatal(err)
	}
}

// checkPods has the controller on the laptop list the pods: it must do so as the pod's ServiceAccount.
func checkPods(w *scene.World, c *scene.Client) {
	w.T.Helper()
	var got struct {
		By, User string
		Pods     []string
	}
	w.Eventually("the laptop to list the pods", func() string {
		o := c.Get("http://controller/pods")
		if err := json.Unmarshal([]byte(o.Body), &got); err != nil || got.By != "the laptop" {
			return fmt.Sprintf("%+v", o)
		}
		return ""
	})
	if want := "system:serviceaccount:" + w.Namespace + ":controller"; got.User != want {
		w.T.Errorf("the API server sees %q, want %q", got.User, want)
	}
	agent := w.Pods(scene.SessionLabel)
	if len(agent) != 1 || !strings.Contains(strings.Join(got.Pods, " "), agent[0].Name) || !strings.Contains(strings.Join(got.Pods, " "), "client") {
		w.T.Errorf("the controller lists %v, want the agent's pod and the client among them", got.Pods)
	}
}

// TestFidelitySidecarExample swaps a web server whose content a sidecar pulls with git every few seconds.
func TestFidelitySidecarExample(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(exampleYAML(w, "SERVERS", "sidecar"))
		c := w.NewClient()
		w.WaitAvailable()
		served := func(want string) {
			t.Helper()
			w.Eventually("the page "+want, func() string {
				if o := c.Get("http://content/"); strings.TrimSpace(o.Body) != want {
					return fmt.Sprintf("%+v", o)
				}
				return ""
			})
		}
		publish := func(text string) {
			t.Helper()
			w.Exec("app=origin", "origin", "sh", "/scripts/publish", text)
		}
		served("the first")
		publish("the second")
		served("the second")
		w.Freeze()
		run := w.Teleswap("swap", "content:web", "--", "/usr/bin/python3", "-m", "http.server", "8080", "--directory", "/content/current")
		run.WaitSwapped()
		served("the second")
		run.WaitStderr(`GET / HTTP`) // it was Python that answered
		for _, text := range []string{"the third", "the fourth"} {
			publish(text)
			served(text)
		}
		run.SignalGroup(sigint)
		run.Wait() // Python's own status on SIGINT
	})
}
