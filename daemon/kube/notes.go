package kube

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// notesOn says what else has its hands on the target: none of it forbids a swap.
func notesOn(d *appsv1.Deployment, autoscalers []autoscalingv2.HorizontalPodAutoscaler) []string {
	var notes []string
	for _, hpa := range autoscalers {
		ref := hpa.Spec.ScaleTargetRef
		if ref.Kind != "Deployment" || ref.Name != d.Name {
			continue
		}
		if strings.HasPrefix(hpa.Name, "keda-hpa-") {
			notes = append(notes, "KEDA scales the target and may scale it up during the swap; to keep it quiet, annotate its ScaledObject with autoscaling.keda.sh/paused=true")
			continue
		}
		notes = append(notes, fmt.Sprintf("horizontalpodautoscaler/%s rests while the target has 0 replicas, and goes on after the restore", hpa.Name))
	}
	if owner := gitOps(d); owner != "" {
		notes = append(notes, owner+" manages the target: if it heals drift, it will scale the target up during the swap; suspend its sync for that time")
	}
	if owner := metav1.GetControllerOf(d); owner != nil {
		notes = append(notes, fmt.Sprintf("%s/%s owns the target and may scale it up during the swap", strings.ToLower(owner.Kind), owner.Name))
	}
	switch {
	case d.Spec.Paused:
		notes = append(notes, "the target's rollout is paused; that does not hinder the swap")
	case rollingOut(d):
		notes = append(notes, "a rollout of the target is under way; the agent is made from the newest pod template")
	}
	return notes
}

// rollingOut reports whether pods of an older template are still being replaced.
func rollingOut(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < d.Status.Replicas ||
		d.Status.UpdatedReplicas < replicasOf(d)
}

// gitOps names the tool that keeps the object as a repository says, by the marks that
// it leaves on what it manages.
func gitOps(d *appsv1.Deployment) string {
	has := func(m map[string]string, keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return m[key] != "" })
	}
	switch {
	case has(d.Annotations, "argocd.argoproj.io/tracking-id"), has(d.Labels, "argocd.argoproj.io/instance"):
		return "Argo CD"
	case has(d.Labels, "kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"):
		return "Flux"
	}
	return ""
}
