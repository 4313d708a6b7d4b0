package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func namespaceOf(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func deploymentOf(name string, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	replicas := int32(2)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: "uid-of-" + "deployment", ResourceVersion: "1", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{containerOf("app", portOf{number: 8080})}},
			},
		},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2},
	}
	for _, f := range change {
		f(d)
	}
	return d
}

func marked(d *appsv1.Deployment) {
	d.Annotations = map[string]string{MarkAnnotation: `{"id":"k3f9qz","user":"jane","host":"laptop","since":"2026-02-03T04:05:06Z","replicas":2,"agent":"web-teleswap-k3f9qz"}`}
}

func TestResolveRefuses(t *testing.T) {
	twoContainers := func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, containerOf("proxy"))
		d.Spec.Template.Spec.InitContainers = []corev1.Container{containerOf("migrate"), containerOf("mesh")}
		always := corev1.ContainerRestartPolicyAlways
		d.Spec.Template.Spec.InitContainers[1].RestartPolicy = &always
	}
	hostNetwork := func(d *appsv1.Deployment) { d.Spec.Template.Spec.HostNetwork = true }
	windows := func(d *appsv1.Deployment) { d.Spec.Template.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }
	badMark := func(d *appsv1.Deployment) { d.Annotations = map[string]string{MarkAnnotation: "?"} }
	agent := func(d *appsv1.Deployment) { d.Labels = map[string]string{MarkAnnotation: "k3f9qz"} }
	idle := func(d *appsv1.Deployment) { *d.Spec.Replicas = 0 }
	for _, tc := range []struct {
		name   string
		ref    Ref
		change []func(*appsv1.Deployment)
		typed  any
		wants  []string
	}{
		{"unknown name", Ref{Name: "wbe"}, nil, new(*NotFoundError), []string{`target "wbe" not found in namespace shop`, "did you mean deployment/web?"}},
		{"unknown deployment", Ref{Name: "wbe", Kind: "deploy"}, nil, new(*NotFoundError), []string{`deployment "wbe" not found in namespace shop`, "did you mean deployment/web?"}},
		{"unknown and not near", Ref{Name: "something"}, nil, new(*NotFoundError), []string{"there is deployment/web", "teleswap list"}},
		{"unknown namespace", Ref{Name: "web", Namespace: "shoop"}, nil, new(*NotFoundError), []string{`namespace "shoop" not found`, "did you mean shop?", "web must be elsewhere"}},
		{"unknown kind", Ref{Name: "web", Kind: "gizmo"}, nil, new(*UnsupportedError), []string{"gizmo/web", "deployment, statefulset"}},
		{"another kind", Ref{Name: "web", Kind: "sts"}, nil, new(*NotFoundError), []string{`statefulset "web" not found`, "deployment/web"}},
		{"unknown container", Ref{Name: "web", Container: "appp"}, []func(*appsv1.Deployment){twoContainers}, new(*NoContainerError), []string{`no container "appp"`, "did you mean app?", "app, proxy"}},
		{"init container", Ref{Name: "web", Container: "migrate"}, []func(*appsv1.Deployment){twoContainers}, new(*NoContainerError), []string{"is an init container"}},
		{"native sidecar", Ref{Name: "web", Container: "mesh"}, []func(*appsv1.Deployment){twoContainers}, new(*NoContainerError), []string{`"mesh"`, "is a native sidecar", "its containers: app, proxy"}},
		{"several containers", Ref{Name: "web"}, []func(*appsv1.Deployment){twoContainers}, new(*SeveralContainersError), []string{"app, proxy", "deployment/web:app"}},
		{"swapped", Ref{Name: "web"}, []func(*appsv1.Deployment){marked, idle}, new(*AlreadySwappedError), []string{"jane@laptop", "k3f9qz", "2026-02-0", "teleswap leave k3f9qz", "teleswap restore deployment/web --namespace shop"}},
		{"unreadable mark", Ref{Name: "web"}, []func(*appsv1.Deployment){badMark}, new(*UnsupportedError), []string{"cannot be read", "kubectl annotate deployment/web teleswap.dev/session- --namespace=shop"}},
		{"an agent", Ref{Name: "web"}, []func(*appsv1.Deployment){agent}, new(*UnsupportedError), []string{"itself the agent of session k3f9qz"}},
		{"idle", Ref{Name: "web"}, []func(*appsv1.Deployment){idle}, new(*NoReplicasError), []string{"kubectl scale deployment/web --replicas=1 --namespace=shop"}},
		{"hostNetwork", Ref{Name: "web"}, []func(*appsv1.Deployment){hostNetwork}, new(*UnsupportedError), []string{"hostNetwork"}},
		{"windows", Ref{Name: "web"}, []func(*appsv1.Deployment){windows}, new(*UnsupportedError), []string{"Windows"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := onFake(fake.NewClientset(namespaceOf("shop"), namespaceOf("default"), deploymentOf("web", tc.change...)))
			_, err := c.Resolve(t.Context(), tc.ref)
			if err == nil {
				t.Fatal("no error")
			}
			if !errors.As(err, tc.typed) {
				t.Errorf("error is a %T: %v", err, err)
			}
			for _, want := range tc.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q misses %q", err, want)
				}
			}
		})
	}
}

func TestResolve(t *testing.T) {
	service := serviceOf("web", to(8080))
	service.Namespace = "shop"
	c := onFake(fake.NewClientset(namespaceOf("shop"), deploymentOf("web"), &service))
	for _, kind := range []string{"", "deploy", "Deployment", "deployments.apps"} {
		target, err := c.Resolve(t.Context(), Ref{Kind: kind, Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		if target.String() != "deployment/web:app" || target.Replicas != 2 || target.Namespace != "shop" || len(target.Services) != 1 || len(target.Notes) != 0 {
			t.Errorf("target = %+v", target)
		}
	}
}

func TestResolveTakesTheDefaultContainer(t *testing.T) {
	c := onFake(fake.NewClientset(deploymentOf("web", func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers = append([]corev1.Container{containerOf("proxy")}, d.Spec.Template.Spec.Containers...)
		d.Spec.Template.Annotations = map[string]string{defaultContainer: "app"}
		d.Spec.Replicas = nil
	})))
	target, err := c.Resolve(t.Context(), Ref{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if target.Container != "app" || target.Replicas != 1 {
		t.Errorf("target = %+v", target)
	}
}

func TestNotes(t *testing.T) {
	scaler := func(name, target string) autoscalingv2.HorizontalPodAutoscaler {
		return autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: target}},
		}
	}
	yes := true
	for _, tc := range []struct {
		name    string
		change  func(*appsv1.Deployment)
		scalers []autoscalingv2.HorizontalPodAutoscaler
		want    string // part of the only note; empty: none
	}{
		{"plain", func(*appsv1.Deployment) {}, nil, ""},
		{"another's autoscaler", func(*appsv1.Deployment) {}, []autoscalingv2.HorizontalPodAutoscaler{scaler("x", "other")}, ""},
		{"autoscaler", func(*appsv1.Deployment) {}, []autoscalingv2.HorizontalPodAutoscaler{scaler("web-hpa", "web")}, "horizontalpodautoscaler/web-hpa rests"},
		{"KEDA", func(*appsv1.Deployment) {}, []autoscalingv2.HorizontalPodAutoscaler{scaler("keda-hpa-web", "web")}, "autoscaling.keda.sh/paused"},
		{"Argo CD", func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}
		}, nil, "Argo CD manages"},
		{"Flux", func(d *appsv1.Deployment) {
			d.Labels = map[string]string{"kustomize.toolkit.fluxcd.io/name": "shop"}
		}, nil, "Flux manages"},
		{"an operator", func(d *appsv1.Deployment) {
			d.OwnerReferences = []metav1.OwnerReference{{Kind: "Shop", Name: "main", Controller: &yes}}
		}, nil, "shop/main owns"},
		{"paused", func(d *appsv1.Deployment) { d.Spec.Paused = true }, nil, "paused"},
		{"rolling", func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 }, nil, "rollout of the target is under way"},
		{"not seen yet", func(d *appsv1.Deployment) { d.Generation = 2 }, nil, "rollout of the target is under way"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			notes := notesOn(ofDeployment(deploymentOf("web", tc.change)), tc.scalers)
			if tc.want == "" && len(notes) > 0 || tc.want != "" && (len(notes) != 1 || !strings.Contains(notes[0], tc.want)) {
				t.Errorf("notes = %q, want one with %q", notes, tc.want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	agent := deploymentOf("web-teleswap-k3f9qz", func(d *appsv1.Deployment) { d.Labels = map[string]string{MarkAnnotation: "k3f9qz"} })
	c := onFake(fake.NewClientset(deploymentOf("web", marked), deploymentOf("db"), agent))
	targets, err := c.Targets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(targets) != 2 || targets[0].Name != "db" || targets[0].Mark != nil || targets[1].Mark == nil || targets[1].Mark.Who() != "jane@laptop" {
		t.Errorf("targets = %+v", targets)
	}
	if got, want := targets[1].Mark.Since, time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC); !got.Equal(want) {
		t.Errorf("since %s", got)
	}
	list, err := c.ListMarked(t.Context(), true)
	if err != nil || len(list) != 1 || list[0].Name != "web" || list[0].Namespace != "shop" {
		t.Errorf("marked = %+v, %v", list, err)
	}
}
