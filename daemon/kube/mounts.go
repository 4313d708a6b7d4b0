package kube

import (
	"cmp"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/teleswap/teleswap/manifests"
)

// Mount is one volumeMount of the target's container.
type Mount struct {
	Path   string // absolute, in the container
	Volume string // the pod's name for it
	// Kind is the volume's, as its key in the pod's spec: "secret", "emptyDir", … Empty: one that this version's API does not
	// know.
	Kind string
	// Live says that both sides may write, or that its content is not the kubelet's: see live.
	Live     bool
	ReadOnly bool
	// File says that Path is a file. The pod's spec does not tell, so it is false here.
	File bool
}

// mounts are the volumeMounts of a container in a pod as the cluster has admitted it, so with the ServiceAccount's token and
// what webhooks have added, but without the agent's keys. What is mounted below another comes after it.
func mounts(pod *corev1.Pod, container string) []Mount {
	index := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == container })
	if index < 0 {
		return nil
	}
	var out []Mount
	for _, m := range pod.Spec.Containers[index].VolumeMounts {
		if path.Clean(m.MountPath) == manifests.KeysDir {
			continue
		}
		mount := Mount{Path: path.Clean(m.MountPath), Volume: m.Name, Live: true, ReadOnly: m.ReadOnly}
		if !path.IsAbs(mount.Path) {
			mount.Path = "/" + mount.Path // as container runtimes take it
		}
		for _, v := range pod.Spec.Volumes {
			if v.Name == m.Name {
				kind, synced, readOnly := kindOf(v.VolumeSource)
				mount.Kind, mount.Live, mount.ReadOnly = kind, !synced, m.ReadOnly || readOnly
			}
		}
		out = append(out, mount)
	}
	slices.SortStableFunc(out, func(a, b Mount) int { return cmp.Compare(depth(a.Path), depth(b.Path)) })
	return out
}

func depth(p string) int {
	n := 0
	for ; p != "/" && p != "."; p = path.Dir(p) {
		n++
	}
	return n
}

// kindOf tells what a volume is. Synced are those that the kubelet writes and changes as a whole; the kubelet mounts them
// read-only whatever the volumeMount says.
func kindOf(v corev1.VolumeSource) (kind string, synced, readOnly bool) {
	switch {
	case v.Secret != nil:
		return "secret", true, true
	case v.ConfigMap != nil:
		return "configMap", true, true
	case v.Projected != nil:
		return "projected", true, true
	case v.DownwardAPI != nil:
		return "downwardAPI", true, true
	case v.EmptyDir != nil:
		return "emptyDir", false, false
	case v.HostPath != nil:
		return "hostPath", false, false
	case v.PersistentVolumeClaim != nil:
		return "persistentVolumeClaim", false, v.PersistentVolumeClaim.ReadOnly
	case v.Ephemeral != nil:
		return "ephemeral", false, false
	case v.CSI != nil:
		return "csi", false, v.CSI.ReadOnly != nil && *v.CSI.ReadOnly
	case v.NFS != nil:
		return "nfs", false, v.NFS.ReadOnly
	case v.ISCSI != nil:
		return "iscsi", false, v.ISCSI.ReadOnly
	case v.FC != nil:
		return "fc", false, v.FC.ReadOnly
	case v.Image != nil:
		return "image", false, true
	}
	return "", false, false
}
