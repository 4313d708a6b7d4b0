package kube

import (
	"errors"
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
		wish         Ref
		loopback     []Port
		maps         []PortMap
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
		{
			name:       "a served port leads elsewhere, another is added",
			containers: []corev1.Container{containerOf("app", portOf{number: 80})},
			services:   []corev1.Service{serviceOf("web", to(80))},
			wish:       Ref{Expose: []PortMap{{Local: 8080, Remote: 80}, {Local: 9999, Remote: 9999}}},
			listen:     []int32{80, 9999}, need: []int32{8080}, tunnel: 15100, selecting: []string{"web"},
			maps: []PortMap{{Local: 8080, Remote: 80}},
		},
		{
			name:       "ports change places",
			containers: []corev1.Container{containerOf("app", portOf{number: 80}, portOf{number: 81})},
			wish:       Ref{Expose: []PortMap{{Local: 81, Remote: 80}, {Local: 80, Remote: 81}}},
			listen:     []int32{80, 81}, need: []int32{80, 81}, tunnel: 15100,
			maps: []PortMap{{Local: 81, Remote: 80}, {Local: 80, Remote: 81}},
		},
		{
			name:       "nothing declared: what is exposed is needed",
			containers: []corev1.Container{containerOf("app")},
			wish:       Ref{Expose: []PortMap{{Local: 8080, Remote: 80}, {Local: 5353, Remote: 53, UDP: true}}},
			listen:     []int32{80}, udp: []int32{53}, need: []int32{8080}, needUDP: []int32{5353}, tunnel: 15100,
			maps: []PortMap{{Local: 8080, Remote: 80}, {Local: 5353, Remote: 53, UDP: true}},
		},
		{
			name:       "an optional port is not needed",
			containers: []corev1.Container{containerOf("app", portOf{number: 8080})},
			wish:       Ref{Expose: []PortMap{{Local: 9999, Remote: 9999}}},
			listen:     []int32{8080, 9999}, need: []int32{8080}, tunnel: 15100,
		},
		{
			name:       "the agent's own port gives way to what is asked for",
			containers: []corev1.Container{containerOf("app")},
			wish: Ref{
				Expose: []PortMap{{Local: 15100, Remote: 15100}}, FromPod: []Port{{Number: 15101}}, ToPod: []Port{{Number: 15102}},
			},
			listen: []int32{15100}, need: []int32{15100}, loopback: []Port{{Number: 15101}}, tunnel: 15103,
		},
		{
			name:       "from the pod to a port that is the target's anyway",
			containers: []corev1.Container{containerOf("app", portOf{number: 8080})},
			wish:       Ref{FromPod: []Port{{Number: 8080}, {Number: 8080, UDP: true}}},
			listen:     []int32{8080}, need: []int32{8080}, loopback: []Port{{Number: 8080, UDP: true}}, tunnel: 15100,
			notes: []string{"it is a port of the target"},
		},
		{
			name:       "to the pod, where a sidecar is",
			containers: []corev1.Container{containerOf("app"), containerOf("envoy", portOf{number: 9901})},
			wish:       Ref{ToPod: []Port{{Number: 9901}, {Number: 9902, UDP: true}}},
			tunnel:     15100,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			template := corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "tier": "front"}},
				Spec:       corev1.PodSpec{Containers: tc.containers, InitContainers: tc.init},
			}
			got, err := portsOf(template, "app", tc.services, tc.wish)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.listen, tc.listen) || !slices.Equal(got.need, tc.need) || got.tunnel != tc.tunnel || !slices.Equal(got.services, tc.selecting) {
				t.Errorf("got listen %v, need %v, tunnel %d, services %v\nwant %v, %v, %d, %v",
					got.listen, got.need, got.tunnel, got.services, tc.listen, tc.need, tc.tunnel, tc.selecting)
			}
			if !slices.Equal(got.udp, tc.udp) || !slices.Equal(got.needUDP, tc.needUDP) {
				t.Errorf("got UDP %v, of which %v needed; want %v, %v", got.udp, got.needUDP, tc.udp, tc.needUDP)
			}
			if !slices.Equal(got.loopback, tc.loopback) || !slices.Equal(got.maps, tc.maps) {
				t.Errorf("got loopback %v, maps %v; want %v, %v", got.loopback, got.maps, tc.loopback, tc.maps)
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

func TestPortsThatCannotBeHad(t *testing.T) {
	containers := []corev1.Container{
		containerOf("app", portOf{number: 8080}), containerOf("metrics", portOf{number: 9102}, portOf{"statsd", 8125, corev1.ProtocolUDP}),
	}
	for _, tc := range []struct {
		name  string
		wish  Ref
		parts []string
	}{
		{"a sidecar's port", Ref{Expose: []PortMap{{Local: 8080, Remote: 9102}}}, []string{"--expose 8080:9102: port 9102 of the pod belongs to container metrics", "NAME:metrics"}},
		{"a sidecar's UDP port", Ref{Expose: []PortMap{{Local: 8125, Remote: 8125, UDP: true}}}, []string{"port 8125/udp of the pod belongs to container metrics"}},
		{"from the pod, a sidecar's", Ref{FromPod: []Port{{Number: 9102}}}, []string{"--from-pod 9102: port 9102 of the pod belongs to container metrics", "--to-pod"}},
		{"to the pod, our own", Ref{ToPod: []Port{{Number: 8080}}}, []string{"--to-pod 8080: the port is the target's own"}},
		{"to the pod, exposed", Ref{Expose: []PortMap{{Local: 1, Remote: 2}}, ToPod: []Port{{Number: 2}}}, []string{"--to-pod 2: the port is the target's own"}},
		{"there and back", Ref{FromPod: []Port{{Number: 7}}, ToPod: []Port{{Number: 7}}}, []string{"--to-pod 7: --from-pod leads"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := portsOf(corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: containers}}, "app", nil, tc.wish)
			var port *PortError
			if !errors.As(err, &port) {
				t.Fatalf("got %v, want a PortError", err)
			}
			for _, part := range tc.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q misses %q", err, part)
				}
			}
		})
	}
}
