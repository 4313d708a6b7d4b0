package kube

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func metaOf(name string, owner *metav1.OwnerReference) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: "shop", UID: "uid-of-x", ResourceVersion: "1", Generation: 1}
	if owner != nil {
		m.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return m
}

func ownerOf(apiVersion, kind, name string) *metav1.OwnerReference {
	yes := true
	return &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: "uid-of-x", Controller: &yes}
}

var template = deploymentOf("web").Spec.Template

func selectorOf(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func statefulSetOf(name string) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: metaOf(name, nil), Spec: appsv1.StatefulSetSpec{Selector: selectorOf(name), Template: template, ServiceName: "nodes"}}
}

func replicaSetOf(name string, owner *metav1.OwnerReference) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metaOf(name, owner), Spec: appsv1.ReplicaSetSpec{Selector: selectorOf("web"), Template: template}}
}

func daemonSetOf(name string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metaOf(name, nil), Spec: appsv1.DaemonSetSpec{Selector: selectorOf("web"), Template: template}}
}

func barePod(name, node string, owner *metav1.OwnerReference, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metaOf(name, owner), Spec: *template.Spec.DeepCopy()}
	p.Labels = map[string]string{"app": "web", "team": "blue"}
	p.Spec.NodeName = node
	for _, f := range change {
		f(p)
	}
	return p
}

func TestParseKind(t *testing.T) {
	for text, want := range map[string]Kind{
		"deploy": Deployment, "Deployments.apps": Deployment, "sts": StatefulSet, "STATEFULSET": StatefulSet, "ds": DaemonSet,
		"rs": ReplicaSet, "cj": CronJob, "cronjobs.batch": CronJob, "job": Job, "jobs": Job, "po": Pod, "pods": Pod,
		"": "", "gizmo": "", "pods.": "", "job.apps": "",
	} {
		if got, known := ParseKind(text); got != want || known != (want != "") {
			t.Errorf("ParseKind(%q) = %q, %v; want %q", text, got, known, want)
		}
	}
}

func TestResolveKinds(t *testing.T) {
	done := &batchv1.Job{ObjectMeta: metaOf("done", nil), Spec: batchv1.JobSpec{Template: template}}
	done.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	work := &batchv1.Job{ObjectMeta: metaOf("work", nil), Spec: batchv1.JobSpec{Template: template}}
	foreign := barePod("foreign", "n", ownerOf("example.org/v1", "Gizmo", "g"))
	for _, tc := range []struct {
		name    string
		objects []runtime.Object
		ref     Ref
		want    string // target, or part of the error
		note    string
	}{
		{"bare name, the only kind", []runtime.Object{statefulSetOf("db")}, Ref{Name: "db"}, "statefulset/db:app", ""},
		{"two kinds of a name", []runtime.Object{statefulSetOf("web"), deploymentOf("web")}, Ref{Name: "web"}, `"web" may be deployment/web or statefulset/web`, ""},
		{"one of two, by kind", []runtime.Object{statefulSetOf("web"), deploymentOf("web")}, Ref{Name: "web", Kind: "sts"}, "statefulset/web:app", ""},
		{"replicaset of a deployment", []runtime.Object{replicaSetOf("web-1", ownerOf("apps/v1", "Deployment", "web")), withUID(deploymentOf("web"))}, Ref{Name: "web-1"}, "deployment/web:app", "replicaset/web-1 belongs to deployment/web"},
		{"replicaset of nobody", []runtime.Object{replicaSetOf("web", nil)}, Ref{Name: "web", Kind: "rs"}, "replicaset/web:app", ""},
		{"pod of nobody", []runtime.Object{barePod("p", "n", nil)}, Ref{Name: "p"}, "pod/p:app", "keeps running"},
		{"pod of a pod's set", []runtime.Object{barePod("p", "n", ownerOf("apps/v1", "ReplicaSet", "web-1")), replicaSetOf("web-1", ownerOf("apps/v1", "Deployment", "web")), withUID(deploymentOf("web"))}, Ref{Name: "p", Kind: "pod"}, "deployment/web:app", "pod/p belongs to deployment/web"},
		{"pod of something unknown", []runtime.Object{foreign}, Ref{Name: "foreign"}, "belongs to gizmo/g (example.org/v1)", ""},
		{"job", []runtime.Object{work}, Ref{Name: "work"}, "job/work:app", "suspended meanwhile"},
		{"job that is over", []runtime.Object{done}, Ref{Name: "done"}, "it has ended", ""},
		{"near name of another kind", []runtime.Object{statefulSetOf("db-main")}, Ref{Name: "db-mian"}, "did you mean statefulset/db-main?", ""},
		{"node of no daemonset", []runtime.Object{deploymentOf("web")}, Ref{Name: "web", Node: "n"}, "--node chooses a pod of a DaemonSet", ""},
		{"scale-first of a pod", []runtime.Object{barePod("p", "n", nil)}, Ref{Name: "p", ScaleFirst: true}, "leave --order away", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := onFake(fake.NewClientset(append(tc.objects, namespaceOf("shop"))...))
			target, err := c.Resolve(allow(t, c), tc.ref)
			if err != nil {
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %q misses %q", err, tc.want)
				}
				return
			}
			if target.String() != tc.want || !strings.Contains(strings.Join(target.Notes, "\n"), tc.note) {
				t.Errorf("target %s, notes %q; want %s with note %q", target, target.Notes, tc.want, tc.note)
			}
		})
	}
}

// withUID gives a Deployment the UID that ownerOf names.
func withUID(d *appsv1.Deployment) *appsv1.Deployment {
	d.UID = "uid-of-x"
	return d
}

// TestDaemonPod chooses among the pods of three nodes.
func TestDaemonPod(t *testing.T) {
	pods := []*corev1.Pod{barePod("a", "n3", nil, ready), barePod("b", "n1", nil), barePod("c", "n2", nil, ready)}
	for _, tc := range []struct{ name, node, want, err string }{
		{"", "", "c", ""},
		{"b", "", "b", ""},
		{"", "n3", "a", ""},
		{"", "n4", "", `node "n4" not found; did you mean n1, n2 or n3?`},
		{"gone", "", "", "none of its pods is Ready"},
	} {
		pod, err := daemonPod(Object{Kind: DaemonSet, Name: "web"}, pods, tc.name, tc.node)
		switch {
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%+v: error %v", tc, err)
		case tc.err == "" && (err != nil || pod.Name != tc.want):
			t.Errorf("%+v: got %v, %v", tc, pod, err)
		}
	}
}

// TestPlace is about what must not be twice: ports of a node, and volumes.
func TestPlace(t *testing.T) {
	claim := func(mode corev1.PersistentVolumeAccessMode) runtime.Object {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metaOf("data", nil), Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{mode}}}
	}
	mounts := func(spec *corev1.PodSpec) {
		spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}
	hostPort := func(spec *corev1.PodSpec) { spec.Containers[0].Ports[0].HostPort = 8080 }
	for _, tc := range []struct {
		name       string
		object     func(func(*corev1.PodSpec)) runtime.Object
		change     func(*corev1.PodSpec)
		claim      corev1.PersistentVolumeAccessMode
		scaleFirst bool
		node, note string
	}{
		{"nothing", asDeployment, func(*corev1.PodSpec) {}, corev1.ReadWriteMany, false, "", ""},
		{"port of the node", asDeployment, hostPort, corev1.ReadWriteMany, true, "", "hostPort"},
		{"port of the node, a pod's", asPod, hostPort, corev1.ReadWriteMany, false, "", "stays with the original pod"},
		{"volume for one pod", asDeployment, mounts, corev1.ReadWriteOncePod, true, "", "ReadWriteOncePod"},
		{"volume for one node", asDeployment, mounts, corev1.ReadWriteOnce, false, "node-7", ""},
		{"volume for one node, a pod's", asPod, mounts, corev1.ReadWriteOnce, false, "node-3", ""},
		{"volume for all", asDeployment, mounts, corev1.ReadWriteMany, false, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			beside := barePod("web-1", "node-7", nil)
			c := onFake(fake.NewClientset(tc.object(tc.change), claim(tc.claim), beside))
			target, err := c.Resolve(allow(t, c), Ref{Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if target.ScaleFirst != tc.scaleFirst || target.node != tc.node || !strings.Contains(strings.Join(target.Notes, "\n"), tc.note) {
				t.Errorf("scale first %v, node %q, notes %q; want %v, %q, %q", target.ScaleFirst, target.node, target.Notes, tc.scaleFirst, tc.node, tc.note)
			}
		})
	}
}

func asDeployment(change func(*corev1.PodSpec)) runtime.Object {
	return deploymentOf("web", func(d *appsv1.Deployment) { change(&d.Spec.Template.Spec) })
}

func asPod(change func(*corev1.PodSpec)) runtime.Object {
	return barePod("web", "node-3", nil, func(p *corev1.Pod) { change(&p.Spec) })
}

// TestParkAndBack takes off exactly the labels by which somebody finds the pod.
func TestParkAndBack(t *testing.T) {
	service := serviceOf("web", to(8080))
	service.Namespace, service.Spec.Selector = "shop", map[string]string{"app": "web"}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metaOf("p", nil)}
	policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
		PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "role", Operator: metav1.LabelSelectorOpExists}}},
	}}}}
	pod := barePod("web", "n", nil, ready, func(p *corev1.Pod) { p.Labels["role"] = "client" })
	client := fake.NewClientset(pod, &service, policy)
	c := onFake(client)
	ctx := allow(t, c)
	target, mark := resolveMarked(ctx, t, c)
	want := map[string]string{"app": "web", "role": "client"}
	if !reflect.DeepEqual(mark.Parked, want) || mark.Pod != "web" {
		t.Errorf("mark %+v, want parked %v", mark, want)
	}
	shift := mark.Shift(target.Object())
	labels := func() map[string]string {
		p, err := client.CoreV1().Pods("shop").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p.Labels
	}
	for range 2 {
		if err := c.Shift(ctx, shift, agentName); err != nil {
			t.Fatal(err)
		}
	}
	if got := labels(); !reflect.DeepEqual(got, map[string]string{"team": "blue"}) {
		t.Errorf("parked, it has %v", got)
	}
	for range 2 {
		if outcome, err := c.Unshift(ctx, shift, agentName); outcome != Returned || err != nil {
			t.Fatal(outcome, err)
		}
	}
	if got := labels(); !reflect.DeepEqual(got, pod.Labels) {
		t.Errorf("given back, it has %v, want %v", got, pod.Labels)
	}
	if outcome, err := c.Unshift(ctx, Shift{Kind: Pod, Name: "nobody", Pod: "nobody"}, agentName); outcome != Gone || err != nil {
		t.Errorf("of a pod that is gone: %v, %v", outcome, err)
	}
}

// TestDaemonSetChangesPlaces looks at the order: the place is held before it is left.
func TestDaemonSetChangesPlaces(t *testing.T) {
	set := daemonSetOf("web")
	original := barePod("web-x", "n", ownerOf("apps/v1", "DaemonSet", "web"), ready)
	agent := barePod(agentName, "n", nil)
	client := fake.NewClientset(set, original, agent)
	c := onFake(client)
	ctx := allow(t, c)
	shift := Shift{Kind: DaemonSet, Name: "web", Pod: "web-x", Parked: map[string]string{"app": "web"}}
	if err := c.Shift(ctx, shift, agentName); err != nil {
		t.Fatal(err)
	}
	var did []string
	for _, a := range client.Actions() {
		switch a := a.(type) {
		case k8stesting.CreateActionImpl:
			if p, isPod := a.GetObject().(*corev1.Pod); isPod {
				if len(p.Finalizers) != 1 || len(p.Spec.SchedulingGates) != 1 || p.Spec.NodeName != "" || metav1.GetControllerOf(p).Kind != "DaemonSet" {
					t.Errorf("place holder %+v", p)
				}
				did = append(did, "create "+p.Name)
			}
		case k8stesting.DeleteActionImpl:
			did = append(did, "delete "+a.Name)
		case k8stesting.PatchActionImpl:
			did = append(did, "patch "+a.Name)
		}
	}
	slot := agentName + "-slot"
	// The fake knows no finalizers: the place holder is gone with its deletion, and freeing it finds none.
	want := []string{"create " + slot, "delete " + slot, "patch web-x", "patch " + agentName, "patch " + slot}
	if !reflect.DeepEqual(did, want) {
		t.Errorf("did %q\nwant %q", did, want)
	}
	now, err := client.CoreV1().Pods("shop").Get(ctx, agentName, metav1.GetOptions{})
	if owner := metav1.GetControllerOf(now); err != nil || owner == nil || owner.UID != set.UID {
		t.Errorf("the agent belongs to %+v, %v", owner, err)
	}
}

// TestSuspend keeps what was suspended before.
func TestSuspend(t *testing.T) {
	yes := true
	for _, before := range []bool{false, true} {
		j := &batchv1.CronJob{ObjectMeta: metaOf("nightly", nil)}
		j.Spec.JobTemplate.Spec.Template = template
		if before {
			j.Spec.Suspend = &yes
		}
		client := fake.NewClientset(j)
		c := onFake(client)
		ctx := allow(t, c)
		target, err := c.Resolve(ctx, Ref{Name: "nightly"})
		if err != nil || !target.ScaleFirst {
			t.Fatal(target, err)
		}
		mark, err := c.Mark(ctx, target, Mark{ID: "k3f9qz", Agent: agentName})
		if err != nil || mark.Suspended != before {
			t.Fatal(mark, err)
		}
		shift := mark.Shift(target.Object())
		suspended := func() bool {
			j, err := client.BatchV1().CronJobs("shop").Get(ctx, "nightly", metav1.GetOptions{})
			return err == nil && j.Spec.Suspend != nil && *j.Spec.Suspend
		}
		if err := c.Shift(ctx, shift, agentName); err != nil || !suspended() {
			t.Errorf("suspended %v, %v", suspended(), err)
		}
		if _, err := c.Unshift(ctx, shift, agentName); err != nil || suspended() != before {
			t.Errorf("given back: suspended %v, %v; was %v", suspended(), err, before)
		}
	}
}

// TestJobsAgentIsNobodys: a Job's controller would adopt a pod with its labels.
func TestJobsAgentIsNobodys(t *testing.T) {
	j := &batchv1.Job{ObjectMeta: metaOf("work", nil), Spec: batchv1.JobSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"batch.kubernetes.io/controller-uid": "u"}},
		Template: *template.DeepCopy(),
	}}
	j.Spec.Template.Labels["batch.kubernetes.io/controller-uid"] = "u"
	if got := ofJob(j).template.Labels; !reflect.DeepEqual(got, map[string]string{"app": "web"}) {
		t.Errorf("labels %v", got)
	}
	if len(j.Spec.Template.Labels) != 2 {
		t.Error("the target was changed")
	}
}

// TestJobWithLabelsOfItsOwn: what its agent loses is said, and where it loses nothing of its owner's nothing is.
func TestJobWithLabelsOfItsOwn(t *testing.T) {
	for _, c := range []struct {
		name   string
		manual map[string]string
		want   string // part of a note; empty: none
	}{
		{"made by Kubernetes", nil, ""},
		{"chosen", map[string]string{"app": "web", "part": "batch"}, "goes without app=web, part=batch,"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &batchv1.Job{ObjectMeta: metaOf("work", nil), Spec: batchv1.JobSpec{Template: *template.DeepCopy()}}
			if c.manual == nil {
				c.manual = map[string]string{batchv1.ControllerUidLabel: "u"}
			}
			j.Spec.Selector = &metav1.LabelSelector{
				MatchLabels:      c.manual,
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "gone", Operator: metav1.LabelSelectorOpDoesNotExist}},
			}
			maps.Copy(j.Spec.Template.Labels, c.manual)
			w := ofJob(j)
			for key := range c.manual {
				if _, has := w.template.Labels[key]; has {
					t.Errorf("the agent's pod bears %s: the Job takes it for its own", key)
				}
			}
			notes := strings.Join(notesOn(w, nil), "\n")
			if got := strings.Contains(notes, "manualSelector"); got != (c.want != "") || !strings.Contains(notes, c.want) {
				t.Errorf("notes %q, want %q", notes, c.want)
			}
		})
	}
}

// TestOldShift is a record of a version that knew Deployments alone.
func TestOldShift(t *testing.T) {
	var s Shift
	if err := json.Unmarshal([]byte(`{"name":"web","replicas":3,"available":2}`), &s); err != nil {
		t.Fatal(err)
	}
	if got := s.Object().String(); got != "deployment/web" || s.Replicas != 3 || !s.Kind.scales() {
		t.Errorf("%s, %+v", got, s)
	}
	text, err := json.Marshal(Mark{Replicas: 3}.Shift(Object{Kind: Deployment, Name: "web"}))
	if err != nil || string(text) != `{"name":"web","replicas":3}` {
		t.Errorf("written %s, %v", text, err)
	}
}

// TestResolveAsksForTheKindsPermissions is denied what only this kind needs.
func TestResolveAsksForTheKindsPermissions(t *testing.T) {
	client := fake.NewClientset(statefulSetOf("db"))
	client.PrependReactor("create", "selfsubjectaccessreviews", func(action k8stesting.Action) (bool, runtime.Object, error) {
		review := reviewOf(action)
		review.Status.Allowed = review.Spec.ResourceAttributes.Subresource != "scale"
		return true, review, nil
	})
	_, err := onFake(client).Resolve(t.Context(), Ref{Name: "db"})
	var missing *MissingPermissionError
	if !errors.As(err, &missing) || len(missing.Missing) != 1 || missing.Missing[0].Resource != "statefulsets/scale" {
		t.Errorf("got %v", err)
	}
}

// allow lets the fake's user do everything.
func allow(t *testing.T, c *Cluster) context.Context {
	t.Helper()
	c.client.(*fake.Clientset).PrependReactor("create", "selfsubjectaccessreviews", func(action k8stesting.Action) (bool, runtime.Object, error) {
		review := reviewOf(action)
		review.Status.Allowed = true
		return true, review, nil
	})
	return t.Context()
}

func TestMeansTarget(t *testing.T) {
	for _, tc := range []struct {
		selector, target string
		want             bool
	}{
		{"web", "deployment/web:app", true},
		{"deploy/web", "deployment/web:app", true},
		{"web:app", "deployment/web:app", true},
		{"sts/web", "deployment/web:app", false},
		{"app", "deployment/web:app", false},
		{"connect", "connect", true},
		{"connect", "deployment/connect:app", true},
		{"con", "connect", false},
		{"connect --proxy", "connect --proxy", true},
	} {
		if got := MeansTarget(tc.selector, tc.target); got != tc.want {
			t.Errorf("%q means %q: %v, want %v", tc.selector, tc.target, got, tc.want)
		}
	}
}
