package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
)

func inShop(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "shop"} }

// readyPod is one of app=web that was made so many minutes ago.
func readyPod(name, ip string, minutes int, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: inShop(name), Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip}}
	p.Labels = map[string]string{"app": "web"}
	p.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0).Add(-time.Duration(minutes) * time.Minute))
	p.Spec.Containers = []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func destinations() []runtime.Object {
	yes, no := true, false
	name, number, tcp := "pg", int32(15432), corev1.ProtocolTCP
	template := corev1.PodTemplateSpec{Spec: readyPod("", "", 0, true).Spec}
	return []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.Service{ObjectMeta: inShop("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		}}},
		&corev1.Service{ObjectMeta: inShop("db"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "pg", Port: 5432}}}},
		&corev1.Service{ObjectMeta: inShop("far"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com"}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "db-1", Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &number, Protocol: &tcp}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.0.0.8"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
				{Addresses: []string{"10.0.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			},
		},
		&appsv1.Deployment{ObjectMeta: inShop("web"), Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template,
		}},
		readyPod("web-old", "10.0.0.1", 10, true), readyPod("web-new", "10.0.0.2", 1, true), readyPod("web-starts", "10.0.0.3", 0, false),
	}
}

func TestDestination(t *testing.T) {
	for _, c := range []struct {
		name    string
		want    Wanted
		at      string // its addresses
		port    uint16
		lasting bool
		fails   string
	}{
		{"a Service by number", Wanted{Name: "web", Port: "80"}, "10.96.0.7:80", 80, true, ""},
		{"a Service by name", Wanted{Name: "web", Port: "http"}, "10.96.0.7:80", 80, true, ""},
		{"datagrams", Wanted{Name: "web", Port: "53", UDP: true}, "10.96.0.7:53", 53, true, ""},
		{"with its kind", Wanted{Kind: "svc", Name: "web", Port: "80"}, "10.96.0.7:80", 80, true, ""},
		{"with its namespace", Wanted{Name: "web", Namespace: "shop", Port: "80"}, "10.96.0.7:80", 80, true, ""},
		{"headless", Wanted{Name: "db", Port: "5432"}, "10.0.0.9:15432", 5432, false, ""},
		{"a name elsewhere", Wanted{Name: "far", Port: "5432"}, "db.example.com:5432", 5432, true, ""},
		{"a Deployment, the youngest pod first", Wanted{Kind: "deploy", Name: "web", Port: "8080"}, "10.0.0.2:8080 10.0.0.1:8080", 8080, false, ""},
		{"a Deployment's named port", Wanted{Kind: "deployment", Name: "web", Port: "http"}, "10.0.0.2:8080 10.0.0.1:8080", 8080, false, ""},
		{"a pod", Wanted{Kind: "pod", Name: "web-old", Port: "9000"}, "10.0.0.1:9000", 9000, false, ""},
		{"no such Service", Wanted{Name: "wbe", Port: "80"}, "", 0, false, `service "wbe" not found in namespace shop; did you mean web or db?`},
		{"no such port", Wanted{Name: "web", Port: "81"}, "", 0, false, "web:81: service web has no such port\nit has 80 (http) or 53 (dns)/udp"},
		{"the other protocol", Wanted{Name: "web", Port: "53"}, "", 0, false, "web:53: service web has no such port"},
		{"no such named port", Wanted{Kind: "deployment", Name: "web", Port: "grpc"}, "", 0, false, "it has http"},
		{"no such pod", Wanted{Kind: "pod", Name: "web-odl", Port: "80"}, "", 0, false, `pod "web-odl" not found`},
		{"no such kind", Wanted{Kind: "ingress", Name: "web", Port: "80"}, "", 0, false, "no port leads to that kind"},
		{"a kind without pods", Wanted{Kind: "cronjob", Name: "web", Port: "80"}, "", 0, false, "no port leads to that kind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := onFake(fake.NewClientset(destinations()...))
			d, err := cluster.Destination(t.Context(), c.want)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			at, err := d.Addresses(t.Context())
			if err != nil || strings.Join(at, " ") != c.at || d.Port() != c.port || d.Lasting() != c.lasting {
				t.Errorf("at %v port %d lasting %v, %v; want %s, %d, %v", at, d.Port(), d.Lasting(), err, c.at, c.port, c.lasting)
			}
		})
	}
}

func TestDestinationWithoutPods(t *testing.T) {
	client := fake.NewClientset(destinations()...)
	cluster := onFake(client)
	for _, w := range []Wanted{{Kind: "pod", Name: "web-old", Port: "80"}, {Kind: "deployment", Name: "web", Port: "80"}, {Name: "db", Port: "5432"}} {
		d, err := cluster.Destination(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range []string{"web-old", "web-new", "web-starts"} {
			_ = client.CoreV1().Pods("shop").Delete(t.Context(), pod, metav1.DeleteOptions{}) // the first round deletes them
		}
		_ = client.DiscoveryV1().EndpointSlices("shop").Delete(t.Context(), "db-1", metav1.DeleteOptions{})
		var none *NoPodError
		if at, err := d.Addresses(t.Context()); !errors.As(err, &none) {
			t.Errorf("%s: %v, %v", w, at, err)
		}
	}
}
