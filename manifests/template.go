package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StatefulPod is what the StatefulSet controller would make of the set's template for
// its first pod (pkg/controller/statefulset/stateful_set_utils.go: its name is the
// hostname, serviceName the subdomain, and each claim template a volume), and the name
// of that pod.
func StatefulPod(set *appsv1.StatefulSet) (corev1.PodTemplateSpec, string) {
	ordinal := 0
	if set.Spec.Ordinals != nil {
		ordinal = int(set.Spec.Ordinals.Start)
	}
	name := fmt.Sprintf("%s-%d", set.Name, ordinal)
	template := *set.Spec.Template.DeepCopy()
	template.Spec.Hostname, template.Spec.Subdomain = name, set.Spec.ServiceName
	template.Labels = withLabel(template.Labels, appsv1.StatefulSetPodNameLabel, name)
	template.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	if set.Status.CurrentRevision != "" {
		template.Labels[appsv1.StatefulSetRevisionLabel] = set.Status.CurrentRevision
	}
	for _, claim := range set.Spec.VolumeClaimTemplates {
		// A claim template takes precedence over a volume of its name.
		template.Spec.Volumes = slices.DeleteFunc(template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == claim.Name })
		template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{
			Name: claim.Name,
			VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name + "-" + name},
			},
		})
	}
	return template, name
}

// PodTemplate is a template from which a pod like this one is made: without the node
// that the scheduler chose, and what others wrote into it while it ran. What admission
// filled in stays; it is what the pod runs with.
func PodTemplate(pod *corev1.Pod) corev1.PodTemplateSpec {
	copied := pod.DeepCopy()
	template := corev1.PodTemplateSpec{Spec: copied.Spec}
	template.Labels = copied.Labels
	template.Annotations = maps.Clone(copied.Annotations)
	maps.DeleteFunc(template.Annotations, func(key, _ string) bool {
		return key == SessionKey || key == corev1.LastAppliedConfigAnnotation ||
			strings.HasPrefix(key, "cni.projectcalico.org/") || strings.HasPrefix(key, "k8s.v1.cni.cncf.io/network-status")
	})
	if len(template.Annotations) == 0 {
		template.Annotations = nil
	}
	spec := &template.Spec
	spec.NodeName = ""
	spec.EphemeralContainers = nil
	spec.SchedulingGates = nil
	if spec.Hostname == "" && spec.HostnameOverride == nil {
		spec.Hostname = hostname(pod.Name)
	}
	return template
}

// hostname is the kubelet's for a pod without one: its name, shortened to 63 characters
// (pkg/kubelet, GeneratePodHostNameAndDomain). A name with dots cannot be given in
// advance: the field takes one label only.
func hostname(pod string) string {
	if strings.Contains(pod, ".") {
		return ""
	}
	if len(pod) > maxName {
		pod = strings.TrimRight(pod[:maxName], "-")
	}
	return pod
}

// PlaceHolder is a pod that no node ever runs, which counts for a DaemonSet's
// controller as one on the node of like: it has that pod's labels and waits at a scheduling gate.
// Its finalizer keeps it, once deleted, until it is taken off.
func PlaceHolder(name, session, finalizer string, like *corev1.Pod, owner metav1.OwnerReference) *corev1.Pod {
	template := PodTemplate(like)
	spec := template.Spec
	spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: finalizer}}
	pinTo(&spec, like.Spec.NodeName)
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: like.Namespace, Labels: withLabel(template.Labels, SessionKey, session),
			Finalizers: []string{finalizer}, OwnerReferences: []metav1.OwnerReference{owner},
		},
		Spec: spec,
	}
}
