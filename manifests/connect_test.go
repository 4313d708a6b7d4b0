package manifests

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func connectInput() ConnectInput {
	return ConnectInput{
		Namespace: "shop", Session: "k3f9qz", Image: "example.org/agent:1", TunnelPort: 15100,
		Who: `{"user":"ada"}`, AloneFor: 5 * time.Minute, StartFor: 10 * time.Minute,
	}
}

func TestConnectGolden(t *testing.T) {
	in := connectInput()
	job, err := ConnectJob(in)
	if err != nil {
		t.Fatal(err)
	}
	checkText(t, "connect", job)
	secret := ConnectSecret(in, metav1.ObjectMeta{Name: job.Name, UID: "5b1f1e0c-6a54-4a0b-9a55-0d3f1a2b3c4d"}, map[string][]byte{"tls.key": []byte("key")})
	checkText(t, "connect-secret", secret)
	mounted := job.Spec.Template.Spec.Volumes[0].Secret.SecretName
	if owner := secret.OwnerReferences; len(owner) != 1 || owner[0].Kind != "Job" || owner[0].Name != job.Name || secret.Name != mounted {
		t.Errorf("the pod mounts %s; the secret is %s, of %v", mounted, secret.Name, owner)
	}
}

// TestConnectIsRestricted: by what the Pod Security Standard "restricted" asks of a pod.
func TestConnectIsRestricted(t *testing.T) {
	job, err := ConnectJob(connectInput())
	if err != nil {
		t.Fatal(err)
	}
	spec := job.Spec.Template.Spec
	security, pod := spec.Containers[0].SecurityContext, spec.SecurityContext
	switch {
	case pod == nil || pod.RunAsNonRoot == nil || !*pod.RunAsNonRoot:
		t.Error("it may run as root")
	case pod.SeccompProfile == nil || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
		t.Error("it has no seccomp profile")
	case security == nil || security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation:
		t.Error("it may escalate")
	case len(security.Capabilities.Drop) != 1 || security.Capabilities.Drop[0] != "ALL":
		t.Error("it keeps capabilities")
	}
	if spec.Containers[0].Resources.Requests.Cpu().IsZero() {
		t.Error("it asks for nothing, which a ResourceQuota refuses")
	}
}

func TestConnectRefusesBadInput(t *testing.T) {
	in := connectInput()
	in.Image = ""
	if _, err := ConnectJob(in); err == nil {
		t.Error("no image is fine")
	}
}
