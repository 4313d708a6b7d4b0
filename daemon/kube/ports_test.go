package kube

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type portOf struct {
	name     string
	number   int32
	protocol corev1.Protocol
}

func containerOf(name string, ports ...portOf) corev1.Container {
	c := corev1.Container{Name: name}
	for _, p := range ports {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: p.name, ContainerPort: p.number, Protocol: p.protocol})
	}
	return c
}

// serviceOf is a Service selecting app=web; each port is "PORT→TARGET[/PROTOCOL]".
func serviceOf(name string, ports ...corev1.ServicePort) corev1.Service {
	return corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: ports},
	}
}

func to(target any) corev1.ServicePort {
	p := corev1.ServicePort{Port: 80}
	switch target := target.(type) {
	case int:
		p.TargetPort = intstr.FromInt32(int32(target))
	case string:
		p.TargetPort = intstr.FromString(target)
	}
	return p
}

func TestPortsOf(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	elsewhere := serviceOf("elsewhere", to(7777))
	elsewhere.Spec.Selector = map[string]string{"app": "other"}
	headless := serviceOf("headless")
	headless.Spec.Selector = nil
	headless.Spec.Ports = []corev1.ServicePort{to(7778)}
	external := serviceOf("external", to(7779))
	external.Spec.Type = corev1.ServiceTypeExternalName
	udp := to("dns")
	udp.Protocol = corev1.ProtocolUDP
	for _, tc := range []struct {
		name         string
		containers   []corev1.Container
		init         []corev1.Container
		services     []corev1.Service
		listen, need []int32
		udp, needUDP []int32
		tunnel       int32
		selecting    []string
		notes        []string // parts, one for each note
	}{
		{
			name:       "no service: what the container declares",
			containers: []corev1.Container{containerOf("app", portOf{number: 9090}, portOf{number: 8080})},
			listen:     []int32{8080, 9090}, need: []int32{8080, 9090}, tunnel: 15100,
		},
		{
			name:       "nothing declared, nothing served",
			containers: []corev1.Container{containerOf("app")},
			tunnel:     15100,
		},
		{
			name:       "served by number without being declared",
			containers: []corev1.Container{containerOf("app")},
			services:   []corev1.Service{serviceOf("web", to(8080))},
			listen:     []int32{8080}, need: []int32{8080}, tunnel: 15100, selecting: []string{"web"},
		},
		{
			name:       "target port defaults to the port",
			containers: []corev1.Container{containerOf("app")},
			services:   []corev1.Service{serviceOf("web", corev1.ServicePort{Port: 81})},
			listen:     []int32{81}, need: []int32{81}, tunnel: 15100, selecting: []string{"web"},
		},
		{
			name:       "only what is served is needed",
			containers: []corev1.Container{containerOf("app", portOf{name: "http", number: 8080}, portOf{name: "debug", number: 6060})},
			services:   []corev1.Service{serviceOf("web", to("http"))},
			listen:     []int32{6060, 8080}, need: []int32{8080}, tunnel: 15100, selecting: []string{"web"},
		},
		{
			name:       "several services",
			containers: []corev1.Container{containerOf("app", portOf{name: "http", number: 8080})},
			services:   []corev1.Service{serviceOf("web", to("http")), serviceOf("admin", to(9000)), elsewhere, headless, external},
			listen:     []int32{8080, 9000}, need: []int32{8080, 9000}, tunnel: 15100, selecting: []string{"admin", "web"},
		},
		{
			name: "a sidecar's ports are not ours",
			containers: []corev1.Container{
				containerOf("app", portOf{name: "http", number: 8080}), containerOf("metrics", portOf{name: "metrics", number: 9102}),
			},
			services: []corev1.Service{serviceOf("web", to("http"), to("metrics"), to(9102))},
			listen:   []int32{8080}, need: []int32{8080}, tunnel: 15100, selecting: []string{"web"},
		},
		{
			name: "a proxy in front: the service leads to it, and we are behind",
			containers: []corev1.Container{
				containerOf("app", portOf{number: 8080}), containerOf("oauth", portOf{name: "http", number: 4180}),
			},
			services: []corev1.Service{serviceOf("web", to("http"))},
			listen:   []int32{8080}, need: []int32{8080}, tunnel: 15100, selecting: []string{"web"},
		},
		{
			name:       "a sidecar among the init containers",
			containers: []corev1.Container{containerOf("app", portOf{number: 8080})},
			init: []corev1.Container{
				{Name: "mesh", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 15100}}},
				containerOf("migrate", portOf{name: "never", number: 15101}),
			},
			services: []corev1.Service{serviceOf("web", to("mesh"), to(8080), to("never"))},
			listen:   []int32{8080}, need: []int32{8080}, tunnel: 15101, selecting: []string{"web"},
			notes: []string{`no container has a port named "never"`},
		},
		{
			name:       "the tunnel's port gives way",
			containers: []corev1.Container{containerOf("app", portOf{number: 15100})},
			services:   []corev1.Service{serviceOf("web", to(15101))},
			listen:     []int32{15100, 15101}, need: []int32{15101}, tunnel: 15102, selecting: []string{"web"},
		},
		{
			name:       "UDP beside TCP",
			containers: []corev1.Container{containerOf("app", portOf{"dns", 53, corev1.ProtocolUDP}, portOf{"dns-tcp", 53, corev1.ProtocolTCP})},
			services:   []corev1.Service{serviceOf("dns", udp, to("dns-tcp"))},
			listen:     []int32{53}, need: []int32{53}, tunnel: 15100, selecting: []string{"dns"},
			udp: []int32{53}, needUDP: []int32{53},
		},
		{
			name:       "UDP alone is served: what TCP is declared is not needed",
			containers: []corev1.Container{containerOf("app", portOf{"dns", 53, corev1.ProtocolUDP}, portOf{"stats", 8125, corev1.ProtocolUDP}, portOf{number: 8080})},
			services:   []corev1.Service{serviceOf("dns", udp)},
			listen:     []int32{8080}, tunnel: 15100, selecting: []string{"dns"},
			udp: []int32{53, 8125}, needUDP: []int32{53},
		},
		{
			name:       "TCP alone is served: what UDP is declared is not needed",
			containers: []corev1.Container{containerOf("app", portOf{"stats", 8125, corev1.ProtocolUDP}, portOf{number: 8080})},
			services:   []corev1.Service{serviceOf("web", to(8080))},
			listen:     []int32{8080}, need: []int32{8080}, tunnel: 15100, selecting: []string{"web"},
			udp: []int32{8125},
		},
		{
			name:       "UDP without a service: what the container declares",
			containers: []corev1.Container{containerOf("app", portOf{"dns", 53, corev1.ProtocolUDP})},
			tunnel:     15100,
			udp:        []int32{53}, needUDP: []int32{53},
		},
		{
			name:       "a sidecar's UDP is not ours, and SCTP is nobody's",
			containers: []corev1.Container{containerOf("app", portOf{"s", 99, corev1.ProtocolSCTP}), containerOf("dns", portOf{"dns", 53, corev1.ProtocolUDP})},
			services:   []corev1.Service{serviceOf("dns", udp)},
			tunnel:     15100, selecting: []string{"dns"},
			notes: []string{"99/SCTP of container app is not carried"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			template := corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "tier": "front"}},
				Spec:       corev1.PodSpec{Containers: tc.containers, InitContainers: tc.init},
			}
			got := portsOf(template, "app", tc.services)
			if !slices.Equal(got.listen, tc.listen) || !slices.Equal(got.need, tc.need) || got.tunnel != tc.tunnel || !slices.Equal(got.services, tc.selecting) {
				t.Errorf("got listen %v, need %v, tunnel %d, services %v\nwant %v, %v, %d, %v",
					got.listen, got.need, got.tunnel, got.services, tc.listen, tc.need, tc.tunnel, tc.selecting)
			}
			if !slices.Equal(got.udp, tc.udp) || !slices.Equal(got.needUDP, tc.needUDP) {
				t.Errorf("got UDP %v, of which %v needed; want %v, %v", got.udp, got.needUDP, tc.udp, tc.needUDP)
			}
			if len(got.notes) != len(tc.notes) {
				t.Fatalf("notes = %q", got.notes)
			}
			for i, part := range tc.notes {
				if !strings.Contains(got.notes[i], part) {
					t.Errorf("note %q misses %q", got.notes[i], part)
				}
			}
		})
	}
}
