package kube

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/teleswap/teleswap/manifests"
)

func TestMounts(t *testing.T) {
	yes := true
	volume := func(name string, source corev1.VolumeSource) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: source}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{
			volume("s", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}),
			volume("c", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}),
			volume("kube-api-access-x", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}),
			volume("d", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}}),
			volume("e", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
			volume("h", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}),
			volume("p", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ReadOnly: true}}),
			volume("i", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{ReadOnly: &yes}}),
			volume("odd", corev1.VolumeSource{Glusterfs: &corev1.GlusterfsVolumeSource{}}),
			volume("keys", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}),
		},
		Containers: []corev1.Container{{Name: "other", VolumeMounts: []corev1.VolumeMount{{Name: "e", MountPath: "/elsewhere"}}}, {
			Name: "app",
			VolumeMounts: []corev1.VolumeMount{
				{Name: "e", MountPath: "/data/sub/"},
				{Name: "h", MountPath: "/data", ReadOnly: true},
				{Name: "s", MountPath: "/etc/secret"},
				{Name: "c", MountPath: "/etc/app.conf", SubPath: "app.conf"},
				{Name: "d", MountPath: "relative"},
				{Name: "p", MountPath: "/claim"},
				{Name: "i", MountPath: "/csi"},
				{Name: "odd", MountPath: "/odd"},
				{Name: "kube-api-access-x", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true},
				{Name: "keys", MountPath: manifests.KeysDir, ReadOnly: true},
			},
		}},
	}}
	want := []Mount{
		{Path: "/data", Volume: "h", Kind: "hostPath", Live: true, ReadOnly: true},
		{Path: "/relative", Volume: "d", Kind: "downwardAPI", ReadOnly: true},
		{Path: "/claim", Volume: "p", Kind: "persistentVolumeClaim", Live: true, ReadOnly: true},
		{Path: "/csi", Volume: "i", Kind: "csi", Live: true, ReadOnly: true},
		{Path: "/odd", Volume: "odd", Live: true},
		{Path: "/data/sub", Volume: "e", Kind: "emptyDir", Live: true},
		{Path: "/etc/secret", Volume: "s", Kind: "secret", ReadOnly: true},
		{Path: "/etc/app.conf", Volume: "c", Kind: "configMap", ReadOnly: true},
		{Path: "/var/run/secrets/kubernetes.io/serviceaccount", Volume: "kube-api-access-x", Kind: "projected", ReadOnly: true},
	}
	if got := mounts(pod, "app"); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if got := mounts(pod, "nobody"); got != nil {
		t.Errorf("of no container: %+v", got)
	}
}
