package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/teleswap/teleswap/e2e/scene"
)

// kindPod is the spec of a pod that serves on 8080, by lines to be indented.
const kindPod = `terminationGracePeriodSeconds: 10
containers:
- name: app
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":8080", -plain, -name, original, -drain]
  ports: [{name: http, containerPort: 8080}]
  env:
  - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: TEAM, valueFrom: {fieldRef: {fieldPath: "metadata.labels['team']"}}}
  readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}
  securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
`

// kindTemplate is a pod template with that spec, for the level of a workload's spec.
const kindTemplate = `  template:
    metadata: {labels: {app: web, team: blue}}
    spec:
`

const kindService = `---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`

func deeper(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+by) + "\n"
}

// kindScene is a workload named web and its Service. more goes into the workload's spec.
func kindScene(apiVersion, kind, more string) string {
	return "apiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: web, labels: {app: web}}\nspec:\n" +
		more + kindTemplate + deeper(kindPod, "      ") + kindService
}

// podScene is a pod that nobody made but the user, with a file of its own that must not be lost.
func podScene() string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web, team: blue}}\nspec:\n" +
		deeper(kindPod, "  ") + kindService
}

// setScene is a StatefulSet behind its headless Service, and a Service that spreads.
func setScene(more string) string {
	return kindScene("apps/v1", "StatefulSet", "  serviceName: nodes\n  selector: {matchLabels: {app: web}}\n"+more) + `---
apiVersion: v1
kind: Service
metadata: {name: nodes}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 8080}]
`
}

// runScene is a Job's or CronJob's pod that works until it is told to end.
const runPod = `restartPolicy: Never
terminationGracePeriodSeconds: 1
containers:
- name: app
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-sleep]
  env: [{name: WORK, value: "the job's"}]
  securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
`

func jobScene() string {
	return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: work}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n" + deeper(runPod, "      ")
}

func cronScene() string {
	return "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: work}\nspec:\n  schedule: \"0 0 1 1 *\"\n" +
		"  jobTemplate:\n    spec:\n      backoffLimit: 0\n      template:\n        spec:\n" + deeper(runPod, "          ")
}

// makeVolume makes a volume that the claim gets, and no other.
func makeVolume(t *testing.T, w *scene.World, claim string, mode corev1.PersistentVolumeAccessMode) {
	t.Helper()
	kind := corev1.HostPathDirectoryOrCreate
	name := w.Namespace + "-" + claim
	folder := filepath.Join(w.Lab.Dir, name) // the embedded cluster's nodes have this machine's files, and the folder goes with the run
	if os.Getenv(scene.KubeconfigVariable) != "" {
		folder = "/tmp/" + name
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")},
			AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			ClaimRef:    &corev1.ObjectReference{Namespace: w.Namespace, Name: claim},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: folder, Type: &kind},
			},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		},
	}
	if _, err := w.Lab.Kube.CoreV1().PersistentVolumes().Create(t.Context(), volume, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext(t)
		defer cancel()
		if err := w.Lab.Kube.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete volume %s: %v", name, err)
		}
	})
}
