package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// hopeless are the reasons, given by the kubelet for a container that waits, which
// waiting longer does not cure. (An image that could not be pulled is tried again by
// the kubelet, but nobody at a terminal should wait for that unasked.)
var hopeless = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "SignatureValidationFailed",
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError",
}

// judgeNoPod looks for the reason why there is no pod: the ReplicaSet may not make one
// (quota, Pod Security, an admission webhook), which the Deployment reports.
func judgeNoPod(d *appsv1.Deployment) verdict {
	for _, condition := range d.Status.Conditions {
		if condition.Type != appsv1.DeploymentReplicaFailure || condition.Status != corev1.ConditionTrue {
			continue
		}
		// Other failures (a webhook that does not answer, say) are tried again.
		for _, final := range []string{"is forbidden", "is invalid", "denied the request"} {
			if strings.Contains(condition.Message, final) {
				return verdict{err: &PodStuckError{
					Namespace: d.Namespace, Owner: Object{Name: d.Name}.String(), Reason: condition.Reason, Message: condition.Message, Hint: refusalHint(condition.Message, Deployment),
				}}
			}
		}
		return verdict{note: "no pod could be made yet: " + condition.Message}
	}
	return verdict{}
}

func refusalHint(message string, kind Kind) string {
	switch {
	case strings.Contains(message, overQuota) && kind.parks():
		return "the agent's pod runs beside the target's, with the same resources: ask for more quota"
	case strings.Contains(message, overQuota) && kind.runsOnce():
		return "the agent's pod needs as much as the target's: ask for more quota"
	case strings.Contains(message, overQuota):
		return "the agent's pod runs beside the target's for a moment, with the same resources: ask for more quota, or let the original go first by --order scale-first"
	case strings.Contains(message, "violates PodSecurity"):
		return "the agent's pod has the security context of the target's; set on the target what the namespace asks for"
	}
	return "the cluster's admission does not let the agent's pod in; ask who runs it"
}

// IsOverQuota reports an agent's pod that was refused because a ResourceQuota has no room for it.
func IsOverQuota(err error) bool {
	var stuck *PodStuckError
	return errors.As(err, &stuck) && strings.Contains(stuck.Message, overQuota)
}

// overQuota is how the API server's admission words it (apiserver/pkg/admission/plugin/resourcequota).
const overQuota = "exceeded quota"

// judgePod tells a pod that is on its way from one that is stuck.
func judgePod(pod *corev1.Pod, owner, agent string, events map[types.UID]*corev1.Event) verdict {
	stuck := func(container, reason, message string) verdict {
		return verdict{err: &PodStuckError{
			Namespace: pod.Namespace, Pod: pod.Name, Owner: owner, Container: container, Reason: reason, Message: message, Hint: stuckHint(reason, container == agent),
		}}
	}
	note := ""
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		waiting := status.State.Waiting
		if waiting == nil {
			continue
		}
		sidecar := status.Name != agent && slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == status.Name })
		switch {
		case slices.Contains(hopeless, waiting.Reason):
			return stuck(status.Name, waiting.Reason, waiting.Message)
		case waiting.Reason == "CrashLoopBackOff" && !sidecar:
			return stuck(status.Name, waiting.Reason, lastWords(status))
		case waiting.Reason == "CrashLoopBackOff":
			note = fmt.Sprintf("container %s of pod %s keeps ending: %s", status.Name, pod.Name, lastWords(status))
		}
	}
	if note != "" {
		return verdict{note: note}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return verdict{note: fmt.Sprintf("pod %s waits for a node: %s%s", pod.Name, condition.Message, nodeHint(condition.Message))}
		}
	}
	if event := lastEvent(events, pod.Name); event != nil && !isReady(pod, agent) && event.Reason != "Unhealthy" {
		return verdict{note: fmt.Sprintf("pod %s: %s: %s", pod.Name, event.Reason, event.Message)}
	}
	return verdict{}
}

// nodeHint is for a pod that finds no node beside the original's.
func nodeHint(message string) string {
	for _, beside := range []string{"free ports", "anti-affinity", "Insufficient", "ReadWriteOncePod", "in-use"} {
		if strings.Contains(message, beside) {
			return " (--order scale-first lets the original go first)"
		}
	}
	return ""
}

func stuckHint(reason string, agent bool) string {
	if !agent {
		return "the container is the target's own: see whether the original's pods have the same trouble"
	}
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "SignatureValidationFailed":
		return "bring the image to the cluster: `teleswap image load` (kind, minikube, k3d, a containerd), `teleswap image push REGISTRY/NAME` and\n" +
			"--agent-image REGISTRY/NAME, or `teleswap image save FILE` and load that file by other means"
	}
	return ""
}

// lastWords is how a container that keeps ending ended last.
func lastWords(status corev1.ContainerStatus) string {
	last := status.LastTerminationState.Terminated
	if last == nil {
		return status.State.Waiting.Message
	}
	text := fmt.Sprintf("it ended with exit code %d (%s)", last.ExitCode, cmp.Or(last.Reason, "no reason given"))
	if message := strings.TrimSpace(last.Message); message != "" {
		text += ": " + message
	}
	return text
}

// agentRuns reports whether the agent's container runs and the pod has an address.
func agentRuns(pod *corev1.Pod, container string) bool {
	return pod.Status.PodIP != "" && slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == container && s.State.Running != nil
	})
}

// isReady reports whether the pod as a whole is Ready.
func isReady(pod *corev1.Pod, _ string) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// slowness says why pods of the target are not Ready yet, if that is to be seen.
func slowness(w *workload, pods map[types.UID]*corev1.Pod) string {
	if w.failure != "" {
		return "no pod could be made yet: " + w.failure
	}
	var notes []string
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || isReady(pod, "") {
			continue
		}
		v := judgePod(pod, w.meta.Name, "", nil)
		switch {
		case v.err != nil:
			notes = append(notes, v.err.Error())
		case v.note != "":
			notes = append(notes, v.note)
		}
	}
	slices.Sort(notes)
	return strings.Join(notes[:min(1, len(notes))], "")
}

// lastEvent is the youngest event on a pod.
func lastEvent(events map[types.UID]*corev1.Event, pod string) *corev1.Event {
	var out *corev1.Event
	for _, event := range events {
		if event.InvolvedObject.Name == pod && (out == nil || eventTime(out).Before(eventTime(event))) {
			out = event
		}
	}
	return out
}

func eventTime(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// addEvent puts the pod's own event into the error where that says more than the
// container's state does. It does without if it cannot have it.
func (c *Cluster) addEvent(ctx context.Context, stuck *PodStuckError) {
	if stuck.Pod == "" {
		return // the Deployment's condition is the event's text
	}
	ctx, cancel := context.WithTimeout(ctx, eventsDelay)
	defer cancel()
	list, err := c.client.CoreV1().Events(stuck.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: podWarningSelector() + "," + fields.OneTermEqualSelector("involvedObject.name", stuck.Pod).String(),
	})
	if err != nil {
		c.log.Debug("no events", "pod", stuck.Pod, "err", err)
		return
	}
	for _, event := range list.Items {
		if event.Reason == "Failed" && strings.HasPrefix(event.Message, "Failed to pull image") ||
			stuck.Message == "" && event.Reason != "BackOff" && event.Reason != "Unhealthy" {
			stuck.Message = event.Message
			return
		}
	}
}
