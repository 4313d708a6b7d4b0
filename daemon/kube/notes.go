package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
)

// notesOn says what else has its hands on the target: none of it forbids a swap.
func notesOn(w *workload, autoscalers []autoscalingv2.HorizontalPodAutoscaler) []string {
	var notes []string
	for _, hpa := range autoscalers {
		ref := hpa.Spec.ScaleTargetRef
		if ref.Kind != string(w.kind) || ref.Name != w.meta.Name {
			continue
		}
		if strings.HasPrefix(hpa.Name, "keda-hpa-") {
			notes = append(notes, "KEDA scales the target and may scale it up during the swap; to keep it quiet, annotate its ScaledObject with autoscaling.keda.sh/paused=true")
			continue
		}
		notes = append(notes, fmt.Sprintf("horizontalpodautoscaler/%s rests while the target has 0 replicas, and goes on after the restore", hpa.Name))
	}
	if owner := gitOps(w); owner != "" {
		notes = append(notes, owner+" manages the target: if it heals drift, it will scale the target up during the swap; suspend its sync for that time")
	}
	if owner := w.owner(); owner != nil && (w.kind.scales() || w.kind.runsOnce()) {
		notes = append(notes, fmt.Sprintf("%s/%s owns the target and may scale it up during the swap", strings.ToLower(owner.Kind), owner.Name))
	}
	if lost := ownLabels(w.lost); lost != "" {
		notes = append(notes, fmt.Sprintf("the Job chooses the labels of its pods itself (manualSelector), and would take for its own what has them: the agent's pod goes without %s, and Services and NetworkPolicies that select by them do not find it", lost))
	}
	switch {
	case w.paused:
		notes = append(notes, "the target's rollout is paused; that does not hinder the swap")
	case w.rolling && w.kind == DaemonSet:
		notes = append(notes, "a rollout of the target is under way: it may take the agent's pod away, which ends the swap")
	case w.rolling:
		notes = append(notes, "a rollout of the target is under way; the agent is made from the newest pod template")
	case w.kind == StatefulSet && w.replicas > 1:
		notes = append(notes, fmt.Sprintf("the local process stands for all %d pods of the target, as its first one, %s", w.replicas, w.podName))
	case w.kind == Job:
		notes = append(notes, "the Job is suspended meanwhile: its own pods end, and it begins anew afterwards")
	case w.kind == CronJob && w.ready > 0:
		notes = append(notes, fmt.Sprintf("runs of the target that are under way (%d) go on; new ones wait for the end of the swap", w.ready))
	case w.kind == Pod:
		notes = append(notes, "the original pod keeps running without the labels by which Services find it, and gets them back afterwards")
	}
	return notes
}

// ownLabels are the labels among those by which a Job finds its pods that its owner chose (manualSelector), as text. The
// others Kubernetes makes for the Job alone.
func ownLabels(selected map[string]string) string {
	var texts []string
	for _, key := range slices.Sorted(maps.Keys(selected)) {
		if key != batchv1.ControllerUidLabel && key != "controller-uid" { // the latter up to Kubernetes 1.26
			texts = append(texts, key+"="+selected[key])
		}
	}
	return strings.Join(texts, ", ")
}

// gitOps names the tool that keeps the object as a repository says, by the marks that
// it leaves on what it manages.
func gitOps(w *workload) string {
	has := func(m map[string]string, keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return m[key] != "" })
	}
	switch {
	case has(w.meta.Annotations, "argocd.argoproj.io/tracking-id"), has(w.meta.Labels, "argocd.argoproj.io/instance"):
		return "Argo CD"
	case has(w.meta.Labels, "kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"):
		return "Flux"
	}
	return ""
}
