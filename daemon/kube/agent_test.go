package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/teleswap/teleswap/manifests"
)

func TestAgentComesAndGoes(t *testing.T) {
	client := fake.NewClientset(deploymentOf("web"))
	// The fake client does not know how to delete collections.
	client.PrependReactor("delete-collection", "*", func(action k8stesting.Action) (bool, runtime.Object, error) {
		selector := action.(k8stesting.DeleteCollectionActionImpl).ListRestrictions.Labels.String()
		if want := manifests.SessionKey + "=k3f9qz"; selector != want {
			t.Errorf("deletes all with %q, want %q", selector, want)
		}
		err := client.Tracker().Delete(action.GetResource(), "shop", "of-agent")
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return true, nil, err
	})
	c := onFake(client)
	target, err := c.Resolve(t.Context(), Ref{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	agent := Agent{Session: "k3f9qz", Name: AgentName("web", "k3f9qz"), Image: "agent:1", Keys: map[string][]byte{"ca.crt": []byte("x")}}
	for range 2 { // making twice is fine
		if err := errors.Join(c.CreateSecret(t.Context(), target, agent), c.CreateAgent(t.Context(), target, agent)); err != nil {
			t.Fatal(err)
		}
	}
	made, err := client.AppsV1().Deployments("shop").Get(t.Context(), agent.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := agentContainer(made.Spec.Template.Spec); got != "app" {
		t.Errorf("the agent's container is %q", got)
	}
	secret, err := client.CoreV1().Secrets("shop").Get(t.Context(), agent.Name, metav1.GetOptions{})
	if err != nil || string(secret.Data["ca.crt"]) != "x" {
		t.Errorf("secret %+v, %v", secret, err)
	}
	// The cluster makes these of it; another session's must stay.
	owned := metav1.ObjectMeta{Name: "of-agent", Namespace: "shop", Labels: agentLabels}
	other := metav1.ObjectMeta{Name: "of-other", Namespace: "shop", Labels: map[string]string{manifests.SessionKey: "other"}}
	for _, object := range []runtime.Object{
		&appsv1.ReplicaSet{ObjectMeta: owned}, &corev1.Pod{ObjectMeta: owned}, &appsv1.ReplicaSet{ObjectMeta: other}, &corev1.Pod{ObjectMeta: other},
	} {
		if err := client.Tracker().Add(object); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 { // deleting twice is fine
		if err := errors.Join(c.DeleteAgent(ctx, agent.Name, nil), c.DeleteSecret(ctx, agent.Name)); err != nil {
			t.Fatal(err)
		}
	}
	pods, err := client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].Name != "of-other" {
		t.Errorf("pods left: %v, %v", pods, err)
	}
	checkOrder(t, client.Actions(), "delete deployments", "delete-collection replicasets", "delete-collection pods")
}

// checkOrder checks that the first of each of these actions came in this order.
func checkOrder(t *testing.T, actions []k8stesting.Action, order ...string) {
	t.Helper()
	last := -1
	for _, want := range order {
		at := slices.IndexFunc(actions, func(a k8stesting.Action) bool { return a.GetVerb()+" "+a.GetResource().Resource == want })
		if at <= last {
			t.Errorf("%s is action %d, after %d", want, at, last)
		}
		last = at
	}
}

// TestDeleteAgentWithoutCollections leaves the rest to the garbage collector.
func TestDeleteAgentWithoutCollections(t *testing.T) {
	client := fake.NewClientset(agentDeployment(), podOf("agent-1", agentLabels))
	for _, resource := range []string{"replicasets", "pods"} {
		client.PrependReactor("delete-collection", resource, func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, denial("jane", "deletecollection", "", resource)
		})
	}
	stands := watched(client, "pods")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var collector sync.WaitGroup
	collector.Go(func() {
		select {
		case <-stands:
		case <-ctx.Done():
		}
		if err := client.CoreV1().Pods("shop").Delete(ctx, "agent-1", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	var notes []string
	err := onFake(client).DeleteAgent(ctx, agentName, func(line string) { notes = append(notes, line) })
	collector.Wait()
	if err != nil {
		t.Error(err)
	}
	if len(notes) != 1 || notes[0] != "pod agent-1 drains" {
		t.Errorf("notes = %q", notes)
	}
}

// TestDrainingIsToldOnceEach: what is looked at again and again says the same again, so that it is one line.
func TestDrainingIsToldOnceEach(t *testing.T) {
	pods := map[types.UID]*corev1.Pod{}
	for _, name := range []string{"agent-2", "agent-1", "agent-3"} {
		pods[types.UID(name)] = podOf(name, agentLabels)
	}
	var notes []string
	for range 3 {
		for range 50 {
			if note := draining(pods); !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
		delete(pods, types.UID(fmt.Sprintf("agent-%d", 4-len(pods))))
	}
	if want := []string{"pod agent-1 drains", "pod agent-2 drains", "pod agent-3 drains"}; !slices.Equal(notes, want) {
		t.Errorf("notes %q, want %q", notes, want)
	}
	if note := draining(pods); note != "" {
		t.Errorf("of none: %q", note)
	}
}

// TestDeleteWhileNodeIsLost is of a pod that nobody removes, as its node's kubelet does not answer: it is waited for until it should
// have gone, and no longer.
func TestDeleteWhileNodeIsLost(t *testing.T) {
	const grace = 35 * time.Second
	remove := map[string]func(context.Context, *Cluster, Notify) error{
		"agent": func(ctx context.Context, c *Cluster, notify Notify) error {
			return c.DeleteAgent(ctx, agentName, notify)
		},
		"new": func(ctx context.Context, c *Cluster, notify Notify) error {
			return c.DeleteNew(ctx, "web", agentName, notify)
		},
		"connect": func(ctx context.Context, c *Cluster, notify Notify) error {
			return c.DeleteConnect(ctx, manifests.SessionOf(agentName), notify)
		},
	}
	for _, tc := range []struct {
		name    string
		deleted bool
		ends    time.Duration // of the pod's grace, from now
		waits   time.Duration
		gone    bool
	}{
		{"long overdue", true, -5 * time.Minute, 0, true},
		{"just deleted", true, grace, grace + strandedAfter, true},
		{"past its grace", true, -strandedAfter / 2, strandedAfter / 2, true},
		{"with a long grace", true, time.Hour, 90 * time.Second, false},
		{"not deleted", false, 0, 90 * time.Second, false},
	} {
		for of, remove := range remove {
			t.Run(tc.name+"/"+of, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client := fake.NewClientset(podOf("agent-1", agentLabels, func(p *corev1.Pod) {
						p.Finalizers = []string{"test/stays"}
						if tc.deleted {
							p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(tc.ends)}
						}
					}))
					for _, resource := range []string{"replicasets", "pods"} {
						client.PrependReactor("delete-collection", resource, func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
					}
					ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
					defer cancel()
					begun := time.Now()
					var notes []string
					err := remove(ctx, onFake(client), func(line string) { notes = append(notes, line) })
					if (err == nil) != tc.gone || time.Since(begun) != tc.waits {
						t.Errorf("after %s: %v", time.Since(begun), err)
					}
					told := len(notes) > 0 && strings.Contains(notes[len(notes)-1], "pod agent-1 is not waited for any longer: its node node ")
					if told != tc.gone {
						t.Errorf("notes %q", notes)
					}
				})
			})
		}
	}
}

func TestCreateAgentRefused(t *testing.T) {
	quota := &apierrors.StatusError{ErrStatus: metav1.Status{
		Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: `deployments.apps "x" is forbidden: exceeded quota: q`,
	}}
	for _, tc := range []struct {
		name  string
		err   error
		typed any
		want  string
	}{
		{"quota", quota, new(*PodStuckError), "exceeded quota: q"},
		{"permission", denial("jane", "create", "apps", "deployments"), new(*MissingPermissionError), "create deployments.apps in namespace shop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := fake.NewClientset(deploymentOf("web"))
			client.PrependReactor("create", "deployments", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, tc.err })
			c := onFake(client)
			target, err := c.Resolve(t.Context(), Ref{Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			err = c.CreateAgent(t.Context(), target, Agent{Session: "k3f9qz", Name: agentName, Image: "agent:1"})
			if !errors.As(err, tc.typed) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("a %T: %v", err, err)
			}
		})
	}
}

func TestShiftScales(t *testing.T) {
	client := fake.NewClientset(deploymentOf("web"))
	var sent []string
	client.PrependReactor("patch", "deployments", func(action k8stesting.Action) (bool, runtime.Object, error) {
		patch := action.(k8stesting.PatchActionImpl)
		sent = append(sent, patch.Subresource+" "+string(patch.Patch))
		return true, deploymentOf("web"), nil
	})
	c := onFake(client)
	if err := c.Shift(t.Context(), Shift{Name: "web", Replicas: 2}, agentName); err != nil {
		t.Fatal(err)
	}
	if want := []string{`scale {"metadata":{"resourceVersion":"1","uid":"uid-of-deployment"},"spec":{"replicas":0}}`}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	var notFound *NotFoundError
	if err := c.Shift(t.Context(), Shift{Name: "gone"}, agentName); !errors.As(err, &notFound) {
		t.Errorf("got %v", err)
	}
}

func TestCheckAccess(t *testing.T) {
	for _, tc := range []struct {
		name    string
		denied  []string
		missing int
	}{
		{"everything allowed", nil, 0},
		{"one tunnel is enough", []string{"get pods/proxy"}, 0},
		{"the other one is too", []string{"create pods/portforward"}, 0},
		{"no tunnel", []string{"get pods/proxy", "create pods/portforward"}, 2},
		{"several", []string{"patch deployments/scale", "create secrets", "get pods/proxy"}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := fake.NewClientset()
			client.PrependReactor("create", "selfsubjectaccessreviews", func(action k8stesting.Action) (bool, runtime.Object, error) {
				review := reviewOf(action)
				name := review.Spec.ResourceAttributes.Verb + " " + review.Spec.ResourceAttributes.Resource
				if sub := review.Spec.ResourceAttributes.Subresource; sub != "" {
					name += "/" + sub
				}
				review.Status.Allowed = !slices.Contains(tc.denied, name)
				if review.Spec.ResourceAttributes.Namespace != "shop" {
					t.Errorf("asked for %+v", review.Spec.ResourceAttributes)
				}
				return true, review, nil
			})
			err := onFake(client).CheckAccess(t.Context(), "")
			var permission *MissingPermissionError
			switch {
			case tc.missing == 0 && err != nil:
				t.Error(err)
			case tc.missing > 0 && (!errors.As(err, &permission) || len(permission.Missing) != tc.missing):
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestDeleteAgentPod is of an agent without a Deployment, by a user who may not touch those.
func TestDeleteAgentPod(t *testing.T) {
	client := fake.NewClientset(podOf(agentName, agentLabels))
	client.PrependReactor("delete", "deployments", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, denial("jane", "delete", "apps", "deployments")
	})
	for _, resource := range []string{"replicasets", "pods"} {
		client.PrependReactor("delete-collection", resource, func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, denial("jane", "deletecollection", "", resource)
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := onFake(client).DeleteAgent(ctx, agentName, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("shop").Get(ctx, agentName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod is still there: %v", err)
	}
}
