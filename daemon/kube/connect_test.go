package kube

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/teleswap/teleswap/manifests"
)

const connectID = "k3f9qz"

func connector() Connector {
	return Connector{Session: connectID, Image: "agent:1", Keys: map[string][]byte{"ca.crt": []byte("x")}, User: "ada", Host: "laptop", Since: time.Unix(1e9, 0)}
}

// connectPod is the pod that the Job's controller makes.
func connectPod(alter func(*corev1.Pod)) *corev1.Pod {
	name := manifests.ConnectName(connectID)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-x", UID: "pod", Labels: map[string]string{manifests.SessionKey: connectID}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "agent", VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: manifests.KeysDir}},
		}}},
		Status: corev1.PodStatus{
			PodIP: "10.244.0.9", ContainerStatuses: []corev1.ContainerStatus{{
				Name: "agent", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
	if alter != nil {
		alter(pod)
	}
	return pod
}

func TestConnectComesAndGoes(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("delete-collection", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if got, want := action.(k8stesting.DeleteCollectionActionImpl).ListRestrictions.Labels.String(), manifests.SessionKey+"="+connectID; got != want {
			t.Errorf("deletes all with %q, want %q", got, want)
		}
		err := client.Tracker().Delete(action.GetResource(), "shop", connectPod(nil).Name)
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return true, nil, err
	})
	c := onFake(client)
	for range 2 { // making twice is fine
		if err := c.CreateConnect(t.Context(), connector()); err != nil {
			t.Fatal(err)
		}
	}
	name := connector().Name()
	job, err := client.BatchV1().Jobs("shop").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if who := job.Annotations[manifests.ConnectKey]; !strings.Contains(who, `"user":"ada","host":"laptop"`) {
		t.Errorf("whose it is: %s", who)
	}
	secret, err := client.CoreV1().Secrets("shop").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || string(secret.Data["ca.crt"]) != "x" {
		t.Errorf("secret %+v, %v", secret, err)
	}
	if err := client.Tracker().Add(connectPod(nil)); err != nil {
		t.Fatal(err)
	}
	pod, err := c.WaitConnect(t.Context(), connectID, nil)
	if err != nil || pod.IP.String() != "10.244.0.9" {
		t.Errorf("pod %+v, %v", pod, err)
	}
	if job.Spec.ActiveDeadlineSeconds == nil {
		t.Error("an agent that never serves has no deadline")
	}
	if err := c.SettleConnect(t.Context(), connectID); err != nil {
		t.Error(err)
	}
	if job, _ = client.BatchV1().Jobs("shop").Get(t.Context(), name, metav1.GetOptions{}); job.Spec.ActiveDeadlineSeconds != nil {
		t.Error("an agent that serves has a deadline")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 { // deleting twice is fine
		if err := c.DeleteConnect(ctx, connectID, nil); err != nil {
			t.Fatal(err)
		}
	}
	jobs, err := client.BatchV1().Jobs("shop").List(t.Context(), metav1.ListOptions{})
	secrets, secretsErr := client.CoreV1().Secrets("shop").List(t.Context(), metav1.ListOptions{})
	if err := errors.Join(err, secretsErr); err != nil || len(jobs.Items)+len(secrets.Items) > 0 {
		t.Errorf("left: %d jobs, %d secrets, %v", len(jobs.Items), len(secrets.Items), err)
	}
}

// TestDeleteConnectKnowsItsOwn: a Job of the name that bears another label is somebody else's.
func TestDeleteConnectKnowsItsOwn(t *testing.T) {
	other := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: manifests.ConnectName(connectID), UID: "job"}}
	client := fake.NewClientset(other)
	client.PrependReactor("delete-collection", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
	if err := onFake(client).DeleteConnect(t.Context(), connectID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.BatchV1().Jobs("shop").Get(t.Context(), other.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("somebody else's job: %v", err)
	}
}

func TestWaitConnectSaysWhy(t *testing.T) {
	name, labels := manifests.ConnectName(connectID), map[string]string{manifests.SessionKey: connectID}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "job", Labels: labels}}
	ended := job.DeepCopy()
	ended.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	event := func(message string) *corev1.Event {
		return &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "e", UID: "e"}, Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: message,
			InvolvedObject: corev1.ObjectReference{Kind: "Job", Name: name},
		}
	}
	for _, tc := range []struct {
		name    string
		objects []runtime.Object
		want    []string // in the error
	}{
		{"no job", nil, []string{"job", "not found"}},
		{"a job that has ended", []runtime.Object{ended}, []string{"not found", "ended"}},
		{
			"no image",
			[]runtime.Object{job, connectPod(func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image"}}
			})},
			[]string{"ErrImagePull: no such image", "teleswap image load"},
		},
		{
			"over quota",
			[]runtime.Object{job, event(`Error creating: pods "x" is forbidden: exceeded quota: small`)},
			[]string{"exceeded quota", "job/" + name, "25m of CPU", "--namespace"},
		},
		{
			"refused",
			[]runtime.Object{job, event(`Error creating: admission webhook "no" denied the request: because`)},
			[]string{"denied the request", "ask who runs it"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := onFake(fake.NewClientset(tc.objects...)).WaitConnect(t.Context(), connectID, nil)
			if err == nil {
				t.Fatal("it runs")
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
		})
	}
}

// TestRangesByWhatMayBeRead: from all that an administrator sees to what a user of one namespace does.
func TestRangesByWhatMayBeRead(t *testing.T) {
	ranges := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24", PodCIDRs: []string{"10.244.0.0/24"}}}
	podAt := func(namespace, name, ip string, host bool) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{HostNetwork: host},
			Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.7"}}}
	all := []runtime.Object{ranges, node, service, podAt("shop", "web", "10.244.0.5", false), podAt("other", "db", "10.244.7.5", false), podAt("kube-system", "proxy", "192.168.1.5", true)}
	for _, tc := range []struct {
		name           string
		denied         []string // resources that may not be read in the whole cluster
		services, pods []netip.Prefix
		how            string
	}{
		{
			"an administrator", nil, prefixes("10.96.0.0/16"), prefixes("10.244.0.0/24", "10.244.7.0/24"),
			"Services 10.96.0.0/16 (ServiceCIDR API); pods 10.244.0.0/24, 10.244.7.0/24 (node specs, addresses seen in all namespaces)",
		},
		{
			"no nodes",
			[]string{"nodes"},
			prefixes("10.96.0.0/16"), prefixes("10.244.0.0/24", "10.244.7.0/24"),
			"Services 10.96.0.0/16 (ServiceCIDR API); pods 10.244.0.0/24, 10.244.7.0/24 (addresses seen in all namespaces)",
		},
		{
			"one namespace",
			[]string{"nodes", "pods", "servicecidrs"},
			prefixes("10.96.0.7/32"), prefixes("10.244.0.0/24"),
			"Services 10.96.0.7/32 (addresses seen in namespace shop); pods 10.244.0.0/24 (addresses seen in namespace shop)",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := fake.NewClientset(all...)
			client.PrependReactor("list", "*", func(a k8stesting.Action) (bool, runtime.Object, error) {
				if a.GetNamespace() == "" && slices.Contains(tc.denied, a.GetResource().Resource) {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: a.GetResource().Resource}, "", errors.New("no"))
				}
				return false, nil, nil
			})
			client.PrependReactor("create", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("no"))
			})
			got := onFake(client).Ranges(t.Context())
			if !slices.Equal(got.Services, tc.services) || !slices.Equal(got.Pods, tc.pods) || got.How != tc.how {
				t.Errorf("got %v, %v\n%s\nwant %v, %v\n%s", got.Services, got.Pods, got.How, tc.services, tc.pods, tc.how)
			}
		})
	}
	if got := onFake(fake.NewClientset()).Ranges(t.Context(), netip.MustParseAddr("10.9.8.7")); len(got.Pods) != 1 || got.Pods[0].String() != "10.9.8.0/24" {
		t.Errorf("with one address that is known otherwise: %+v", got)
	}
}
