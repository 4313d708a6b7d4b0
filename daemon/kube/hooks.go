package kube

import (
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Hook is a lifecycle hook of the target's container: exactly one of Command, URL and Sleep is set.
type Hook struct {
	Command []string
	URL     string   // of a GET request
	Headers []string // of that request, "Name: value"
	Sleep   time.Duration
}

// defaultGrace is Kubernetes' own (PodSpec.terminationGracePeriodSeconds).
const defaultGrace = 30 * time.Second

// Grace is how long the target's pods have to end.
func (t *Target) Grace() time.Duration {
	if s := t.podSpec().TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return defaultGrace
}

// Hooks are the container's lifecycle hooks; nil: it has none. podIP is where requests go that name no host.
func (t *Target) Hooks(podIP string) (postStart, preStop *Hook) {
	for _, c := range t.podSpec().Containers {
		if c.Name == t.Container && c.Lifecycle != nil {
			return hookOf(c, c.Lifecycle.PostStart, podIP), hookOf(c, c.Lifecycle.PreStop, podIP)
		}
	}
	return nil, nil
}

// hookOf is a handler as a Hook. A tcpSocket, which the API still has, was never carried out by any kubelet.
func hookOf(c corev1.Container, h *corev1.LifecycleHandler, podIP string) *Hook {
	switch {
	case h == nil:
	case h.Exec != nil:
		return &Hook{Command: h.Exec.Command}
	case h.Sleep != nil:
		return &Hook{Sleep: time.Duration(h.Sleep.Seconds) * time.Second}
	case h.HTTPGet != nil:
		return httpHook(c, h.HTTPGet, podIP)
	}
	return nil
}

// httpHook is a request as the kubelet makes it.
func httpHook(c corev1.Container, get *corev1.HTTPGetAction, podIP string) *Hook {
	host, scheme := get.Host, strings.ToLower(string(get.Scheme))
	if host == "" {
		host = podIP
	}
	if scheme == "" {
		scheme = "http"
	}
	port := get.Port.String()
	if get.Port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == get.Port.StrVal {
				port = strconv.Itoa(int(p.ContainerPort))
			}
		}
	}
	hook := &Hook{URL: scheme + "://" + net.JoinHostPort(host, port) + "/" + strings.TrimPrefix(get.Path, "/")}
	for _, h := range get.HTTPHeaders {
		hook.Headers = append(hook.Headers, h.Name+": "+h.Value)
	}
	return hook
}

// podSpec is the target's own.
func (t *Target) podSpec() *corev1.PodSpec {
	if t.work == nil {
		return &corev1.PodSpec{}
	}
	return &t.work.template.Spec
}
