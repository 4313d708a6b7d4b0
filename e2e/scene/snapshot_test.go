package scene

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const deploymentYAML = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: service-a
  resourceVersion: "10"
  uid: 11111111-0000-0000-0000-000000000000
  generation: 1
  creationTimestamp: "2026-01-01T00:00:00Z"
  annotations: {deployment.kubernetes.io/revision: "1"}
  managedFields: [{manager: kubectl}]
spec:
  replicas: 2
  template: {spec: {containers: [{name: app, image: a:1}]}}
status: {readyReplicas: 2}
`

const podYAML = `
apiVersion: v1
kind: Pod
metadata:
  name: service-a-6d4cf56db6-abcde
  generateName: service-a-6d4cf56db6-
  ownerReferences: [{kind: ReplicaSet, name: service-a-6d4cf56db6, uid: 22222222-0000-0000-0000-000000000000}]
spec:
  containers: [{name: app, image: a:1, volumeMounts: [{name: kube-api-access-x7k2p, mountPath: /var/run/secrets}]}]
  volumes: [{name: kube-api-access-x7k2p}]
`

func objects(t *testing.T, texts ...string) []unstructured.Unstructured {
	t.Helper()
	var all []unstructured.Unstructured
	for _, text := range texts {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatalf("decode: %v", err)
		}
		all = append(all, o)
	}
	return all
}

func snapshotOf(t *testing.T, texts ...string) Snapshot {
	t.Helper()
	s, err := Normalise(objects(t, texts...))
	if err != nil {
		t.Fatalf("normalise: %v", err)
	}
	return s
}

func TestSnapshotDiff(t *testing.T) {
	swap := func(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }
	otherPod := swap(podYAML, "-abcde", "-fghij", "x7k2p", "qqqqq", "22222222", "33333333")
	for _, tc := range []struct {
		name          string
		before, after []string
		want          string // part of the diff; "" means no difference
	}{
		{"nothing changed", []string{deploymentYAML, podYAML}, []string{deploymentYAML, podYAML}, ""},
		{
			"versions and status may differ",
			[]string{deploymentYAML},
			[]string{swap(deploymentYAML, `"10"`, `"99"`, "generation: 1", "generation: 7", "readyReplicas: 2", "readyReplicas: 1", "manager: kubectl", "manager: other")},
			"",
		},
		{"pods come back under other names", []string{podYAML}, []string{otherPod}, ""},
		{"order of listing is nothing", []string{deploymentYAML, podYAML, otherPod}, []string{otherPod, deploymentYAML, podYAML}, ""},
		{"a pod less", []string{podYAML, otherPod}, []string{podYAML}, "gone: Pod/service-a-6d4cf56db6-*#2"},
		{"a pod more", []string{podYAML}, []string{podYAML, otherPod}, "new: Pod/service-a-6d4cf56db6-*#2"},
		{"replicas", []string{deploymentYAML}, []string{swap(deploymentYAML, "replicas: 2", "replicas: 1")}, "+   replicas: 1"},
		{"template", []string{deploymentYAML}, []string{swap(deploymentYAML, "image: a:1", "image: a:2")}, "image: a:2"},
		{
			"an annotation left",
			[]string{deploymentYAML},
			[]string{swap(deploymentYAML, "{deployment", "{teleswap.dev/session: x, deployment")},
			"+     teleswap.dev/session: x",
		},
		{"an annotation lost", []string{deploymentYAML}, []string{swap(deploymentYAML, `deployment.kubernetes.io/revision: "1"`, "")}, "-     deployment.kubernetes.io/revision"},
		{"a pod of another template", []string{podYAML}, []string{swap(podYAML, "6d4cf56db6", "7777777777")}, "new: Pod/service-a-7777777777-*"},
		{"a secret left", []string{deploymentYAML}, []string{deploymentYAML, "{apiVersion: v1, kind: Secret, metadata: {name: left}, data: {a: Yg==}}"}, "new: Secret/left#1"},
		{
			"a secret's value",
			[]string{"{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: Yg==}}"},
			[]string{"{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: Yw==}}"},
			"changed: Secret/s#1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := snapshotOf(t, tc.before...).Diff(snapshotOf(t, tc.after...))
			switch {
			case tc.want == "" && got != "":
				t.Errorf("diff = %q, want none", got)
			case tc.want != "" && !strings.Contains(got, tc.want):
				t.Errorf("diff = %q, want it to contain %q", got, tc.want)
			}
		})
	}
}
