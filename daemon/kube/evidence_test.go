package kube

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/teleswap/teleswap/manifests"
)

// planted is in every place of a pod where somebody may have put a secret.
const planted = "planted-secret"

func evidencePod() corev1.PodTemplateSpec {
	handler := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", planted}}}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
		Path: "/" + planted, HTTPHeaders: []corev1.HTTPHeader{{Name: "Authorization", Value: planted}},
	}}}
	sidecar := corev1.Container{
		Name: "sidecar", Image: "proxy:1", Command: []string{"run", planted}, Args: []string{planted},
		Env:           []corev1.EnvVar{{Name: "PLAIN", Value: planted}, {Name: "FROM", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "which-key"}}}},
		LivenessProbe: probe, Lifecycle: &corev1.Lifecycle{PreStop: handler},
	}
	agent := corev1.Container{
		Name: "app", Image: "agent:1", Args: []string{"--tunnel-port", "4711"}, Env: []corev1.EnvVar{{Name: "DB_PASSWORD", Value: planted}},
		VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: manifests.KeysDir}},
	}
	init := sidecar
	init.Name = "init"
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"vendor.example/inject": planted}},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{*init.DeepCopy()}, Containers: []corev1.Container{agent, sidecar},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d.example", VolumeAttributes: map[string]string{"a": planted}}}}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "debug", Env: []corev1.EnvVar{{Name: "X", Value: planted}}, Args: []string{planted},
			}}},
		},
	}
}

func TestGatherHasNoSecrets(t *testing.T) {
	template := evidencePod()
	labels := map[string]string{manifests.SessionKey: "abc123"}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, Namespace: "shop", Labels: labels,
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": planted, manifests.SessionKey: `{"id":"abc123"}`},
		}
	}
	client := fake.NewClientset(
		&corev1.Pod{ObjectMeta: meta("web-teleswap-abc123-x"), Spec: template.Spec},
		&appsv1.Deployment{ObjectMeta: meta("web-teleswap-abc123"), Spec: appsv1.DeploymentSpec{Template: template}},
		&corev1.Service{ObjectMeta: meta("hello")},
		&corev1.Secret{ObjectMeta: meta("web-teleswap-abc123"), Data: map[string][]byte{"k": []byte(planted)}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "somebody-elses", Namespace: "shop"}},
		&corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "e1", Namespace: "shop"}, Reason: "Pulled", Message: "pulled it",
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web-teleswap-abc123-x"},
		},
		&corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "e2", Namespace: "shop"}, Reason: "Other", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "somebody-elses"},
		},
	)
	found, hidden, err := onFake(client).Gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	all := ""
	for _, e := range found {
		names = append(names, e.Name)
		all += string(e.Data)
	}
	want := []string{
		"deployment-web-teleswap-abc123.yaml", "events.txt", "log-web-teleswap-abc123-x.txt", "pod-web-teleswap-abc123-x.yaml", "service-hello.yaml",
	}
	if !slices.Equal(names, want) {
		t.Errorf("found %v, want %v", names, want)
	}
	if i := strings.Index(all, planted); i >= 0 {
		t.Errorf("a secret is in it: …%s…", all[max(0, i-200):min(len(all), i+50)])
	}
	for _, stays := range []string{"which-key", "DB_PASSWORD", "--tunnel-port", "proxy:1", "abc123", "Pulled pod/web-teleswap-abc123-x: pulled it"} {
		if !strings.Contains(all, stays) {
			t.Errorf("%q is not in it", stays)
		}
	}
	if strings.Contains(all, "somebody-elses") {
		t.Error("what is not ours is in it")
	}
	if !slices.Contains(hidden, planted) {
		t.Errorf("hidden: %v", hidden)
	}
	for _, action := range client.Actions() {
		if action.GetResource().Resource == "secrets" {
			t.Errorf("Secrets were read: %v", action)
		}
	}
}

func TestOwnLines(t *testing.T) {
	log := "time=2026-01-02T03:04:05Z level=INFO msg=\"agent starts\"\n{\"user\":\"secret of the process\"}\nlistening\ntime=2026-01-02T03:04:06Z level=WARN msg=x"
	got := string(ownLines([]byte(log)))
	if strings.Contains(got, "secret") || strings.Contains(got, "listening") || !strings.Contains(got, "agent starts") || !strings.Contains(got, "msg=x") || !strings.Contains(got, "(2 lines") {
		t.Errorf("got %q", got)
	}
}

func TestConnectionSecrets(t *testing.T) {
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	config := filepath.Join(dir, "config")
	for name, text := range map[string]string{tokenFile: "token-in-a-file\n", config: `
apiVersion: v1
kind: Config
users:
- name: a
  user: {token: token-of-a, username: u, password: password-of-a, client-key-data: a2V5LW9mLWE=}
- name: b
  user:
    tokenFile: ` + tokenFile + `
    exec: {apiVersion: client.authentication.k8s.io/v1, command: plugin, env: [{name: PLUGIN_SECRET, value: secret-of-plugin}, {name: REGION, value: somewhere}]}
`} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Join(Connection{Kubeconfig: config, Token: "flag-token", Password: "flag-password", Environ: []string{"AWS_SECRET_ACCESS_KEY=aws-secret", "LANG=C"}}.Secrets(), "|")
	for _, want := range []string{
		"flag-token", "flag-password", "aws-secret", "token-of-a", "password-of-a", "key-of-a", "a2V5LW9mLWE=", "token-in-a-file", "secret-of-plugin",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %s", want, got)
		}
	}
	if strings.Contains(got, "somewhere") {
		t.Errorf("what is no secret is one: %s", got)
	}
}
