package kube

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// firstTunnelPort is where the search for the agent's own port begins.
const firstTunnelPort = 15100

// ports is what a pod template, its Services and the user say about ports.
type ports struct {
	listen   []int32   // the agent listens on
	udp      []int32   // likewise, of UDP
	loopback []Port    // the agent listens on at the pod's loopback address alone
	maps     []PortMap // those that lead to another port of the process
	need     []int32   // the local process must listen on
	needUDP  []int32   // likewise, of UDP
	tunnel   int32     // the agent's own
	services []string  // that select the pods
	notes    []string
}

// portsOf is a pure function of what was read, and of what the user wants of ports. A port
// belongs to the target container unless another container of the pod declares it and the
// target does not. The error is a *PortError.
func portsOf(template corev1.PodTemplateSpec, container string, services []corev1.Service, wish Ref) (ports, error) {
	var (
		out      ports
		declared = make(map[int32]bool)   // the container's TCP ports
		foreign  = make(map[int32]string) // TCP ports that only other containers declare, and which
		served   = make(map[int32]bool)   // TCP ports of ours that Services target
		udp      = make(map[int32]bool)   // the container's UDP ports, declared or targeted
		sent     = make(map[int32]bool)   // those that Services target
		another  = make(map[int32]string) // UDP ports that only other containers declare, and which
		taken    = make(map[int32]bool)   // anything the tunnel port must not be
	)
	for _, c := range podContainers(template.Spec) {
		for _, port := range c.Ports {
			taken[port.ContainerPort] = true
			switch {
			case c.Name == container && isTCP(port.Protocol):
				declared[port.ContainerPort] = true
			case c.Name == container && port.Protocol == corev1.ProtocolUDP:
				udp[port.ContainerPort] = true
			case c.Name == container:
				out.notes = append(out.notes, fmt.Sprintf("port %d/%s of container %s is not carried: only TCP and UDP are", port.ContainerPort, port.Protocol, container))
			case isTCP(port.Protocol):
				foreign[port.ContainerPort] = c.Name
			case port.Protocol == corev1.ProtocolUDP:
				another[port.ContainerPort] = c.Name
			}
		}
	}
	for i := range services {
		service := &services[i]
		if !selects(service, template.Labels) {
			continue
		}
		out.services = append(out.services, service.Name)
		for _, port := range service.Spec.Ports {
			number, owner := targetPort(port, template.Spec)
			switch {
			case number == 0:
				out.notes = append(out.notes, fmt.Sprintf("port %s of service/%s leads nowhere: no container has a port named %q", portLabel(port), service.Name, port.TargetPort.StrVal))
				continue
			case port.Protocol == corev1.ProtocolUDP:
				if owner == container || owner == "" && (udp[number] || another[number] == "") {
					udp[number], sent[number] = true, true
				}
			case !isTCP(port.Protocol):
				out.notes = append(out.notes, fmt.Sprintf("port %s of service/%s is %s and not carried: only TCP and UDP are", portLabel(port), service.Name, port.Protocol))
			case owner == container, owner == "" && (declared[number] || foreign[number] == ""):
				served[number] = true
			}
			taken[number] = true
		}
	}
	slices.Sort(out.services)
	all := maps.Clone(declared)
	maps.Copy(all, served)
	declaredUDP := maps.Clone(udp)
	w := wished{tcp: all, udp: udp, foreignTCP: foreign, foreignUDP: another, taken: taken}
	if err := w.add(wish); err != nil {
		return ports{}, err
	}
	out.listen, out.udp = slices.Sorted(maps.Keys(all)), slices.Sorted(maps.Keys(udp))
	out.loopback, out.maps, out.notes = w.loopback, w.maps, append(out.notes, w.notes...)
	out.need, out.needUDP = w.local(served, false), w.local(sent, true)
	if len(served)+len(sent) == 0 {
		out.need, out.needUDP = w.local(declared, false), w.local(declaredUDP, true)
	}
	if len(out.need)+len(out.needUDP) == 0 { // what was asked for is all there is
		out.need, out.needUDP = w.local(all, false), w.local(udp, true)
	}
	out.tunnel = firstTunnelPort
	for taken[out.tunnel] {
		out.tunnel++
	}
	return out, nil
}

// podContainers are the containers that live as long as the pod: the main ones and the
// init containers that are sidecars.
func podContainers(spec corev1.PodSpec) []corev1.Container {
	out := slices.Clone(spec.Containers)
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

// selects reports whether a Service sends to pods with these labels.
func selects(service *corev1.Service, pod map[string]string) bool {
	return len(service.Spec.Selector) > 0 && service.Spec.Type != corev1.ServiceTypeExternalName &&
		labels.SelectorFromValidatedSet(service.Spec.Selector).Matches(labels.Set(pod))
}

// targetPort is the pod's port that a Service's port leads to, as the endpoints
// controller finds it: a name is looked up in the containers in their order, and the
// protocol must be the same. owner is the container of a named port. Zero: none has it.
func targetPort(port corev1.ServicePort, spec corev1.PodSpec) (number int32, owner string) {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port, ""
		}
		return port.TargetPort.IntVal, ""
	}
	for _, c := range podContainers(spec) {
		for _, p := range c.Ports {
			if p.Name == port.TargetPort.StrVal && protocol(p.Protocol) == protocol(port.Protocol) {
				return p.ContainerPort, c.Name
			}
		}
	}
	return 0, ""
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func isTCP(p corev1.Protocol) bool { return protocol(p) == corev1.ProtocolTCP }

func portLabel(port corev1.ServicePort) string {
	if port.Name != "" {
		return port.Name
	}
	return fmt.Sprint(port.Port)
}
