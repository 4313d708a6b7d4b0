package kube

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/teleswap/teleswap/manifests"
)

// watched counts the watches of a resource on a fake client: what is changed after a
// watch stands is seen by it (the fake keeps no history).
func watched(client *fake.Clientset, resource string) <-chan struct{} {
	stands := make(chan struct{}, 16)
	client.PrependWatchReactor(resource, func(action k8stesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(action.GetResource(), action.GetNamespace(), action.(k8stesting.WatchActionImpl).ListOptions)
		stands <- struct{}{}
		return true, w, err
	})
	return stands
}

const agentName = "web-teleswap-k3f9qz"

// agentDeployment is an agent's Deployment as manifests makes it, in what matters here.
func agentDeployment() *appsv1.Deployment {
	d := deploymentOf(agentName)
	d.Labels = map[string]string{manifests.SessionKey: "k3f9qz"}
	d.Spec.Template.Spec.Containers = []corev1.Container{
		containerOf("proxy"),
		{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: manifests.KeysDir}}},
	}
	return d
}

func podOf(name string, labels map[string]string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: "uid-of-pod", Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "proxy"}, {Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: manifests.KeysDir}}}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

var agentLabels = map[string]string{"app": "web", manifests.SessionKey: "k3f9qz"}

func withIP(ip string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.PodIP = ip } }

func running(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "proxy", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
	}
}

func ready(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}

func TestWaitAgent(t *testing.T) {
	client := fake.NewClientset(agentDeployment())
	stands, seen := watched(client, "pods"), watched(client, "deployments")
	c := onFake(client)
	pods := client.CoreV1().Pods("shop")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var notes []string
	var changes sync.WaitGroup
	changes.Go(func() {
		<-stands
		<-seen
		starting := podOf("agent-1", agentLabels, func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no room"}}
		})
		if _, err := pods.Create(ctx, starting, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		// Running without an address is not enough.
		for _, next := range []*corev1.Pod{podOf("agent-1", agentLabels, running), podOf("agent-1", agentLabels, running, withIP("10.0.0.9"))} {
			if _, err := pods.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	pod, err := c.WaitAgentRunning(ctx, agentName, func(line string) { notes = append(notes, line) })
	changes.Wait()
	want := AgentPod{Namespace: "shop", Name: "agent-1", IP: netip.MustParseAddr("10.0.0.9"), Node: "node"}
	if err != nil || !reflect.DeepEqual(pod, want) {
		t.Fatalf("got %+v, %v", pod, err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "waits for a node: no room") {
		t.Errorf("notes = %q", notes)
	}
	changes.Go(func() {
		<-stands
		if _, err := pods.Update(ctx, podOf("agent-1", agentLabels, running, ready, withIP("10.0.0.9")), metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	})
	pod, err = c.WaitAgentReady(ctx, agentName, nil)
	changes.Wait()
	if err != nil || !reflect.DeepEqual(pod, want) {
		t.Errorf("got %+v, %v", pod, err)
	}
}

func TestWaitAgentGivesUp(t *testing.T) {
	pulling := podOf("agent-1", agentLabels, func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{waitingFor("app", "ImagePullBackOff", "Back-off pulling image")}
	})
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "shop"}, Type: corev1.EventTypeWarning, Reason: "Failed",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "agent-1"}, Message: `Failed to pull image "x": no such host`,
	}
	for _, tc := range []struct {
		name    string
		objects []runtime.Object
		typed   any
		want    string
	}{
		{"deleted", nil, new(*NotFoundError), "deleted meanwhile"},
		{"stuck, in the event's words", []runtime.Object{agentDeployment(), pulling, event}, new(*PodStuckError), `Failed to pull image "x": no such host`},
		{"stuck, without an event", []runtime.Object{agentDeployment(), pulling}, new(*PodStuckError), "Back-off pulling image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := onFake(fake.NewClientset(tc.objects...)).WaitAgentRunning(t.Context(), agentName, nil)
			if !errors.As(err, tc.typed) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %T: %v", err, err)
			}
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	c := onFake(fake.NewClientset(agentDeployment()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.WaitAgentRunning(ctx, agentName, nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), agentName) {
		t.Errorf("got %v", err)
	}
}

// TestWatchBeginsAnew ends watches in the ways that they do end, and changes what they
// missed.
func TestWatchBeginsAnew(t *testing.T) {
	expired := apierrors.NewResourceExpired("too old resource version").ErrStatus
	for name, end := range map[string]func(*watch.FakeWatcher){
		"closed":  (*watch.FakeWatcher).Stop,
		"expired": func(w *watch.FakeWatcher) { w.Error(&expired) },
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(agentDeployment(), podOf("agent-1", agentLabels))
			var watches sync.WaitGroup
			first := true
			client.PrependWatchReactor("pods", func(k8stesting.Action) (bool, watch.Interface, error) {
				w := watch.NewFake()
				if first { // reactors are called one at a time
					first = false
					watches.Go(func() {
						if err := client.Tracker().Update(podsResource, podOf("agent-1", agentLabels, running, withIP("10.0.0.9")), "shop"); err != nil {
							t.Error(err)
						}
						end(w)
					})
				}
				return true, w, nil
			})
			pod, err := onFake(client).WaitAgentRunning(t.Context(), agentName, nil)
			watches.Wait()
			if err != nil || pod.Name != "agent-1" {
				t.Errorf("got %+v, %v", pod, err)
			}
		})
	}
}

var podsResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

func TestWaitAvailable(t *testing.T) {
	labels := map[string]string{"app": "web"}
	named := func(name, ip string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := podOf(name, labels, append(change, withIP(ip))...)
		p.UID = types.UID("uid-of-" + name)
		return p
	}
	first, second := named("web-1", "10.0.0.2", ready), named("web-2", "10.0.0.1", ready)
	going := named("web-0", "10.0.0.3", ready, func(p *corev1.Pod) {
		p.Finalizers = []string{"x"}
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	})
	agent := podOf("agent-1", agentLabels, ready, withIP("10.0.0.9"))
	for _, tc := range []struct {
		name   string
		change func(*appsv1.Deployment)
		n      int32
		pods   []runtime.Object
		want   []string
	}{
		{"all there", func(*appsv1.Deployment) {}, 2, []runtime.Object{first, second, going, agent}, []string{"10.0.0.1", "10.0.0.2"}},
		{"scaled down meanwhile", func(d *appsv1.Deployment) { *d.Spec.Replicas, d.Status.AvailableReplicas = 1, 1 }, 2, []runtime.Object{first}, []string{"10.0.0.2"}},
		{"scaled to nothing meanwhile", func(d *appsv1.Deployment) { *d.Spec.Replicas, d.Status.AvailableReplicas = 0, 0 }, 2, []runtime.Object{agent}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := onFake(fake.NewClientset(append(tc.pods, deploymentOf("web", tc.change))...))
			addrs, err := c.WaitAvailable(t.Context(), Object{Name: "web"}, tc.n, nil)
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
	t.Run("not yet", func(t *testing.T) {
		for name, change := range map[string]func(*appsv1.Deployment){
			"not available": func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 },
			"not seen":      func(d *appsv1.Deployment) { d.Generation = 2 },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err := onFake(fake.NewClientset(first, second, deploymentOf("web", change))).WaitAvailable(ctx, Object{Name: "web"}, 2, nil)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("gone", func(t *testing.T) {
		_, err := onFake(fake.NewClientset()).WaitAvailable(t.Context(), Object{Name: "web"}, 2, nil)
		var missing *NotFoundError
		if !errors.As(err, &missing) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stuck, and told", func(t *testing.T) {
		stuck := podOf("web-1", labels, func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{waitingFor("app", "ImagePullBackOff", "Back-off pulling image")}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var note string
		_, err := onFake(fake.NewClientset(stuck, deploymentOf("web"))).WaitAvailable(ctx, Object{Name: "web"}, 2, func(line string) {
			note = line
			cancel()
		})
		if err == nil || !strings.Contains(note, "Back-off pulling image") || strings.Contains(note, "--agent-image") {
			t.Errorf("note %q, %v", note, err)
		}
	})
}

// TestWaitGone follows an original's pod to its very end.
func TestWaitGone(t *testing.T) {
	labels := map[string]string{"app": "web"}
	going := podOf("web-0", labels, ready, func(p *corev1.Pod) {
		p.Finalizers = []string{"x"}
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	})
	over := podOf("web-1", labels, func(p *corev1.Pod) { p.UID, p.Status.Phase = "over", corev1.PodSucceeded })
	agent := podOf("agent-1", agentLabels, ready, withIP("10.0.0.9"))
	agent.UID = "agent"
	client := fake.NewClientset(deploymentOf("web"), going, over, agent)
	stands := watched(client, "pods")
	c := onFake(client)
	gone := make(chan error, 1)
	var notes []string
	go func() {
		gone <- c.WaitGone(t.Context(), Object{Name: "web"}, func(note string) { notes = append(notes, note) })
	}()
	<-stands
	select {
	case err := <-gone:
		t.Fatalf("gone, but a pod is still on its way: %v", err)
	default:
	}
	if err := client.Tracker().Delete(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "shop", "web-0"); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil || !slices.Equal(notes, []string{"still there: pod web-0"}) {
		t.Errorf("got %v, notes %q", err, notes)
	}
	for _, o := range []Object{{Name: "nobody"}, {Kind: CronJob, Name: "work"}} {
		if err := c.WaitGone(t.Context(), o, nil); err != nil {
			t.Errorf("%s: %v", o, err)
		}
	}
}

func TestWaitEndpoints(t *testing.T) {
	slice := func(service string, isReady bool) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: service + "-x", Namespace: "shop", UID: "uid-of-slice", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: &isReady}}},
		}
	}
	web, admin := slice("web", true), slice("admin", false)
	admin.UID = "another"
	client := fake.NewClientset(web, admin)
	stands := watched(client, "endpointslices")
	c := onFake(client)
	pod := AgentPod{Name: "agent-1", IP: netip.MustParseAddr("10.0.0.9")}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var changes sync.WaitGroup
	changes.Go(func() {
		<-stands
		now := slice("admin", true)
		now.UID = "another"
		if _, err := client.DiscoveryV1().EndpointSlices("shop").Update(ctx, now, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	})
	err := c.WaitEndpoints(ctx, []string{"admin", "web"}, pod)
	changes.Wait()
	if err != nil {
		t.Error(err)
	}
	if err := c.WaitEndpoints(t.Context(), nil, pod); err != nil {
		t.Errorf("without Services: %v", err)
	}
	client.PrependReactor("list", "endpointslices", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, denial("jane", "list", "discovery.k8s.io", "endpointslices")
	})
	if err := c.WaitEndpoints(t.Context(), []string{"web"}, pod); err != nil {
		t.Errorf("without permission: %v", err)
	}
}

// denial is an authorizer's refusal as the API server words it.
func denial(user, verb, group, resource string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: resource + ` is forbidden: User "` + user + `" cannot ` + verb + ` resource "` + resource + `" in API group "` + group + `" in the namespace "shop"`,
	}}
}
