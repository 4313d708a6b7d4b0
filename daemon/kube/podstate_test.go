package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func waitingFor(container, reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: container, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func crashing(container string) corev1.ContainerStatus {
	s := waitingFor(container, "CrashLoopBackOff", "back-off 10s")
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: "no keys\n"}
	return s
}

func TestJudgePod(t *testing.T) {
	unscheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"}
	for _, tc := range []struct {
		name     string
		statuses []corev1.ContainerStatus
		init     []corev1.ContainerStatus
		cond     []corev1.PodCondition
		event    string
		stuck    string   // reason of the error
		wants    []string // parts of error or note
	}{
		{name: "starting", statuses: []corev1.ContainerStatus{waitingFor("app", "ContainerCreating", "")}},
		{name: "image", statuses: []corev1.ContainerStatus{waitingFor("app", "ErrImagePull", "not found")}, stuck: "ErrImagePull", wants: []string{"container app of pod web-1", "not found", "--agent-image", "image load", "image push", "image save"}},
		{name: "image of a sidecar", statuses: []corev1.ContainerStatus{waitingFor("proxy", "ImagePullBackOff", "Back-off")}, stuck: "ImagePullBackOff", wants: []string{"container proxy", "the target's own"}},
		{name: "missing config", init: []corev1.ContainerStatus{waitingFor("migrate", "CreateContainerConfigError", `secret "x" not found`)}, stuck: "CreateContainerConfigError", wants: []string{`secret "x" not found`}},
		{name: "agent crashes", statuses: []corev1.ContainerStatus{crashing("app")}, stuck: "CrashLoopBackOff", wants: []string{"exit code 3", "no keys"}},
		{name: "init container crashes", init: []corev1.ContainerStatus{crashing("migrate")}, stuck: "CrashLoopBackOff", wants: []string{"container migrate"}},
		{name: "sidecar crashes", statuses: []corev1.ContainerStatus{crashing("proxy")}, wants: []string{"container proxy of pod web-1 keeps ending", "exit code 3"}},
		{name: "no node", cond: []corev1.PodCondition{unscheduled}, wants: []string{"waits for a node", "0/3 nodes"}},
		{name: "volume", event: "FailedMount", wants: []string{"FailedMount: the event"}},
		{name: "probe", event: "Unhealthy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop"},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, {Name: "proxy"}}},
				Status:     corev1.PodStatus{ContainerStatuses: tc.statuses, InitContainerStatuses: tc.init, Conditions: tc.cond},
			}
			events := map[types.UID]*corev1.Event{}
			if tc.event != "" {
				events["1"] = &corev1.Event{InvolvedObject: corev1.ObjectReference{Name: "web-1"}, Reason: tc.event, Message: "the event"}
				events["2"] = &corev1.Event{InvolvedObject: corev1.ObjectReference{Name: "other"}, Reason: "Other", LastTimestamp: metav1.Now()}
			}
			v := judgePod(pod, "web", "app", events)
			text := v.note
			if tc.stuck != "" {
				var stuck *PodStuckError
				if !errors.As(v.err, &stuck) || stuck.Reason != tc.stuck {
					t.Fatalf("verdict = %+v", v)
				}
				text = v.err.Error()
			} else if v.err != nil {
				t.Fatal(v.err)
			}
			if len(tc.wants) == 0 && text != "" {
				t.Errorf("said %q", text)
			}
			for _, want := range tc.wants {
				if !strings.Contains(text, want) {
					t.Errorf("%q misses %q", text, want)
				}
			}
		})
	}
}

func TestJudgeNoPod(t *testing.T) {
	for _, tc := range []struct {
		message string
		fatal   bool
		want    string
	}{
		{`pods "x" is forbidden: exceeded quota: q`, true, "more quota"},
		{`pods "x" is forbidden: violates PodSecurity "restricted:latest": …`, true, "security context"},
		{`admission webhook "w" denied the request: no`, true, "ask who runs it"},
		{`Internal error occurred: failed calling webhook "w": timeout`, false, "no pod could be made yet"},
	} {
		d := deploymentOf("web-teleswap-k3f9qz")
		d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: tc.message}}
		v := judgeNoPod(d)
		text := v.note
		if v.err != nil {
			text = v.err.Error()
		}
		if (v.err != nil) != tc.fatal || !strings.Contains(text, tc.want) || !strings.Contains(text, tc.message) {
			t.Errorf("%s: verdict %+v", tc.message, v)
		}
	}
	if v := judgeNoPod(deploymentOf("web")); v != (verdict{}) {
		t.Errorf("nothing wrong, but %+v", v)
	}
}

func TestNewestPod(t *testing.T) {
	pod := func(name string, age time.Duration, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	going := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)} }
	evicted := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	pods := map[types.UID]*corev1.Pod{
		"1": pod("old", time.Hour), "2": pod("new", time.Minute), "3": pod("going", time.Second, going), "4": pod("evicted", 0, evicted),
	}
	if got := newest(pods); got == nil || got.Name != "new" {
		t.Errorf("newest = %v", got)
	}
	if got := newest(nil); got != nil {
		t.Errorf("newest of none = %v", got)
	}
}
