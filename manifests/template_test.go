package manifests

import (
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func read[T any](t *testing.T, name string) *T {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var object T
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return &object
}

func inputOf(apiVersion, kind string, meta metav1.ObjectMeta, template corev1.PodTemplateSpec) AgentInput {
	name := AgentName(meta.Name, "k3f9qz")
	return AgentInput{
		Target:    Workload{APIVersion: apiVersion, Kind: kind, Namespace: meta.Namespace, Name: meta.Name, UID: meta.UID, Template: template},
		Container: "app", Session: "k3f9qz", Name: name, Image: "example.org/agent:1", TunnelPort: 15100, KeysSecret: name,
	}
}

// TestStatefulSetGolden has claims, an ordinal that begins at 5, and variables that ask
// for the pod's name; the agent stands on the node of the volume.
func TestStatefulSetGolden(t *testing.T) {
	set := read[appsv1.StatefulSet](t, "statefulset")
	before := set.DeepCopy()
	template, pod := StatefulPod(set)
	in := inputOf("apps/v1", "StatefulSet", set.ObjectMeta, template)
	in.PodName, in.Node, in.Listen, in.ListenUDP = pod, "node-2", []int32{5432}, []int32{8125, 53, 53}
	agent, err := Agent(in)
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "statefulset", agent)
	checkSound(t, agent)
	if !equality.Semantic.DeepEqual(before, set) {
		t.Error("the target was changed")
	}
}

// TestPodGolden is a pod as it runs, with all that admission and the network put in.
func TestPodGolden(t *testing.T) {
	pod := read[corev1.Pod](t, "pod")
	before := pod.DeepCopy()
	in := inputOf("v1", "Pod", pod.ObjectMeta, PodTemplate(pod))
	in.PodName, in.NoHostPorts, in.SkipInit = pod.Name, true, true
	agent, err := AgentPod(in)
	if err != nil {
		t.Fatal(err)
	}
	checkPodGolden(t, "pod", agent)
	if !equality.Semantic.DeepEqual(before, pod) {
		t.Error("the target was changed")
	}
}

// TestDaemonSetGolden pins the agent to the pod's node, and keeps it from being counted
// until it is to be; so does the place holder.
func TestDaemonSetGolden(t *testing.T) {
	pod := read[corev1.Pod](t, "daemonpod")
	set := metav1.ObjectMeta{Name: "logs", Namespace: "shop", UID: "5b1f1e0c-6a54-4a0b-9a55-0d3f1a2b3c4e"}
	yes := true
	template := PodTemplate(pod)
	template.Spec.Hostname = ""
	in := inputOf("apps/v1", "DaemonSet", set, template)
	in.Node, in.NoHostPorts = pod.Spec.NodeName, true
	in.Controller = &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: &yes}
	agent, err := AgentPod(in)
	if err != nil {
		t.Fatal(err)
	}
	checkPodGolden(t, "daemonpod", agent)
	owner := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "DaemonSet", Name: set.Name, UID: set.UID, Controller: &yes}
	checkPodGolden(t, "placeholder", PlaceHolder(in.Name+"-slot", "k3f9qz", "teleswap.dev/slot", pod, owner))
}

func checkPodGolden(t *testing.T, name string, pod *corev1.Pod) {
	t.Helper()
	checkText(t, name, pod)
}

func TestHostname(t *testing.T) {
	long := "a1234567890123456789012345678901234567890123456789012345678901-3456"
	for pod, want := range map[string]string{"web": "web", "a.b": "", long: long[:62]} {
		if got := hostname(pod); got != want {
			t.Errorf("hostname(%q) = %q, want %q", pod, got, want)
		}
	}
}
