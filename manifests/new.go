package manifests

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// NewTemplate is the pod template of what stands in nobody's place: one container, as the Pod Security Standard
// "restricted" wants it. It has no label but those that the agent's pod has anyway, so no Service and no policy of somebody else's
// takes the pod for its own. serviceAccount may be empty, which is the namespace's default.
func NewTemplate(container, serviceAccount string, listen, listenUDP []int32) corev1.PodTemplateSpec {
	yes, no := true, false
	c := corev1.Container{
		Name: container,
		// A little is asked for, so that a ResourceQuota has something to count.
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("25m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	for _, port := range listen {
		c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: port})
	}
	for _, port := range listenUDP {
		c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: port, Protocol: corev1.ProtocolUDP})
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{managedByKey: managedBy}},
		Spec: corev1.PodSpec{
			ServiceAccountName: serviceAccount,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{c},
		},
	}
}

// NewDeployment is the agent's Deployment where there was none: it bears the target's name, and from the first moment
// the session's mark.
func NewDeployment(in AgentInput, mark string) (*appsv1.Deployment, error) {
	d, err := Agent(in)
	if err != nil {
		return nil, err
	}
	d.Name = in.Target.Name
	d.Annotations = map[string]string{SessionKey: mark}
	return d, nil
}

// NewService leads to NewDeployment's pod on all its ports. Nil: it has none.
func NewService(in AgentInput) *corev1.Service {
	var all []corev1.ServicePort
	add := func(ports []int32, protocol corev1.Protocol, name string) {
		for _, port := range slices.Compact(slices.Sorted(slices.Values(ports))) {
			all = append(all, corev1.ServicePort{
				Name: fmt.Sprintf("%s-%d", name, port), Protocol: protocol, Port: port, TargetPort: intstr.FromInt32(port),
			})
		}
	}
	add(in.Listen, corev1.ProtocolTCP, "tcp")
	add(in.ListenUDP, corev1.ProtocolUDP, "udp")
	if len(all) == 0 {
		return nil
	}
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: in.objectMeta(in.Target.Name),
		Spec:       corev1.ServiceSpec{Selector: map[string]string{SessionKey: in.Session}, Ports: all},
	}
}
