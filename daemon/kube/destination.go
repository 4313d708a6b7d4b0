package kube

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Wanted names something in the cluster that listens, as the user did.
type Wanted struct {
	Kind      string // "service", or as ParseKind takes it; empty: a Service
	Name      string
	Namespace string // empty: the cluster's
	Port      string // its number or its name
	UDP       bool
}

// String is the destination as messages name it.
func (w Wanted) String() string {
	text := w.Name
	if w.Namespace != "" {
		text += "." + w.Namespace
	}
	if w.Kind != "" && !isService(w.Kind) {
		text = w.Kind + "/" + text
	}
	text += ":" + w.Port
	if w.UDP {
		text += "/udp"
	}
	return text
}

func (w Wanted) protocol() corev1.Protocol {
	if w.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

func isService(kind string) bool {
	switch strings.ToLower(kind) {
	case "", "service", "services", "svc":
		return true
	}
	return false
}

// NoPodError says that nothing serves at a destination for now.
type NoPodError struct {
	Destination string
	Reason      string
}

func (e *NoPodError) Error() string { return e.Destination + ": " + e.Reason }

// Destination is something in the cluster that listens. Its methods are safe for concurrent use.
type Destination struct {
	cluster *Cluster
	want    Wanted
	kind    Kind // of a workload; empty: a Service
	port    uint16
	lasting bool
	unread  bool // the user may not read it: its name must do
}

// Destination finds what w names, and changes nothing. Errors: *NotFoundError, *PortError, *UnsupportedError, *NoClusterError and kin. A
// Service that the user may not read is taken for there, if its port is a number: its name finds it in the cluster.
func (c *Cluster) Destination(ctx context.Context, w Wanted) (*Destination, error) {
	d := &Destination{cluster: c.In(w.Namespace), want: w}
	if !isService(w.Kind) {
		kind, known := ParseKind(w.Kind)
		if !known || kind == CronJob {
			return nil, &UnsupportedError{w.String(), "no port leads to that kind", "name a service, pod, deployment, statefulset, daemonset, replicaset or job"}
		}
		d.kind = kind
		return d, d.findWorkload(ctx)
	}
	s, err := d.service(ctx)
	switch {
	case isDenied(err):
		number, numeric := portNumber(w.Port)
		if !numeric {
			return nil, err
		}
		d.unread, d.lasting, d.port = true, true, number
		return d, nil
	case apierrors.IsNotFound(err):
		return nil, d.noService(ctx, err)
	case err != nil:
		return nil, err
	}
	port, err := d.servicePort(s)
	if err != nil {
		return nil, err
	}
	d.port = uint16(port.Port)
	d.lasting = s.Spec.ClusterIP != corev1.ClusterIPNone
	return d, nil
}

// Port is the destination's own, as a number: what one would take here, too.
func (d *Destination) Port() uint16 { return d.port }

// Lasting says that the addresses stay while the destination does, whatever becomes of its pods.
func (d *Destination) Lasting() bool { return d.lasting }

// String is the destination as the user named it.
func (d *Destination) String() string { return d.want.String() }

// Addresses are where the destination listens now: HOST:PORT, HOST an address or a name of the cluster, the best first. Where
// nothing is Ready it is a *NoPodError.
func (d *Destination) Addresses(ctx context.Context) ([]string, error) {
	switch {
	case d.unread:
		return []string{join2(d.want.Name+"."+d.cluster.namespace+".svc", d.port)}, nil
	case d.kind == Pod:
		return d.podAddress(ctx)
	case d.kind != "":
		return d.workloadAddresses(ctx)
	}
	s, err := d.service(ctx)
	if err != nil {
		return nil, err
	}
	port, err := d.servicePort(s)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return []string{join2(s.Spec.ExternalName, uint16(port.Port))}, nil
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		return d.endpoints(ctx, s, port)
	}
	return []string{join2(s.Spec.ClusterIP, uint16(port.Port))}, nil
}

func join2(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

func portNumber(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

func (d *Destination) service(ctx context.Context) (s *corev1.Service, err error) {
	c := d.cluster
	err = c.call(ctx, "read service/"+d.want.Name, func(ctx context.Context) (err error) {
		s, err = c.client.CoreV1().Services(c.namespace).Get(ctx, d.want.Name, metav1.GetOptions{})
		return err
	})
	return s, err
}

// noService says which names come near.
func (d *Destination) noService(ctx context.Context, cause error) error {
	c := d.cluster
	if err := c.checkNamespace(ctx, "the Service"); err != nil {
		return err
	}
	e := &NotFoundError{What: "service", Name: d.want.Name, Namespace: c.namespace, Err: cause, Hint: "pods and deployments are named with their kind: pod/NAME, deployment/NAME"}
	list, err := c.client.CoreV1().Services(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return e // without near names
	}
	var names []string
	for _, s := range list.Items {
		names = append(names, s.Name)
	}
	e.Near, e.Names = nearest(d.want.Name, names), few(names)
	return e
}

// servicePort is the Service's port that is meant.
func (d *Destination) servicePort(s *corev1.Service) (*corev1.ServicePort, error) {
	var have []string
	for i, p := range s.Spec.Ports {
		protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
		if protocol == d.want.protocol() && (strconv.Itoa(int(p.Port)) == d.want.Port || p.Name == d.want.Port) {
			return &s.Spec.Ports[i], nil
		}
		text := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		if protocol != corev1.ProtocolTCP {
			text += "/" + strings.ToLower(string(protocol))
		}
		have = append(have, text)
	}
	if number, numeric := portNumber(d.want.Port); numeric && len(s.Spec.Ports) == 0 {
		return &corev1.ServicePort{Port: int32(number), Protocol: d.want.protocol()}, nil // a name for others' servers needs none
	}
	return nil, &PortError{d.want.String(), "service " + s.Name + " has no such port", "it has " + orList(have)}
}

// endpoints are the Ready addresses of a Service that has none itself.
func (d *Destination) endpoints(ctx context.Context, s *corev1.Service, port *corev1.ServicePort) ([]string, error) {
	c := d.cluster
	var slices []discoveryv1.EndpointSlice
	err := c.call(ctx, "read the endpoints of "+s.Name, func(ctx context.Context) error {
		list, err := c.client.DiscoveryV1().EndpointSlices(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name})
		if err == nil {
			slices = list.Items
		}
		return err
	})
	if isDenied(err) { // its name leads to its pods, on their own port
		if number := port.TargetPort.IntValue(); number > 0 && number < 1<<16 {
			return []string{join2(s.Name+"."+c.namespace+".svc", uint16(number))}, nil
		}
		return []string{join2(s.Name+"."+c.namespace+".svc", uint16(port.Port))}, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, slice := range slices {
		for _, p := range slice.Ports {
			if p.Port == nil || deref(p.Name) != port.Name || deref(p.Protocol) != d.want.protocol() {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					for _, a := range e.Addresses {
						out = append(out, join2(a, uint16(*p.Port)))
					}
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, &NoPodError{d.want.String(), "no pod of it is Ready"}
	}
	return out, nil
}

// findWorkload finds the workload and the number of its port.
func (d *Destination) findWorkload(ctx context.Context) error {
	w, err := d.workload(ctx)
	if err != nil {
		return err
	}
	number, numeric := portNumber(d.want.Port)
	if !numeric {
		if number, err = d.namedPort(&w.template.Spec); err != nil {
			return err
		}
	}
	d.port = number
	return nil
}

func (d *Destination) workload(ctx context.Context) (*workload, error) {
	w, err := d.cluster.get(ctx, Object{Kind: d.kind, Name: d.want.Name})
	if err == nil && w == nil {
		err = d.cluster.unknownTarget(ctx, d.kind, d.want.Name)
	}
	return w, err
}

// namedPort is the number of a container's port of the name that was asked for.
func (d *Destination) namedPort(spec *corev1.PodSpec) (uint16, error) {
	var have []string
	for _, c := range spec.Containers {
		for _, p := range c.Ports {
			if p.Name == d.want.Port && cmp.Or(p.Protocol, corev1.ProtocolTCP) == d.want.protocol() {
				return uint16(p.ContainerPort), nil
			}
			if p.Name != "" {
				have = append(have, p.Name)
			}
		}
	}
	hint := "none of its ports has a name; give the number"
	if len(have) > 0 {
		hint = "it has " + orList(have) + "; a number will do as well"
	}
	return 0, &PortError{d.want.String(), "no container has a port of that name", hint}
}

func (d *Destination) podAddress(ctx context.Context) ([]string, error) {
	c := d.cluster
	var pod *corev1.Pod
	err := c.call(ctx, "read pod/"+d.want.Name, func(ctx context.Context) (err error) {
		pod, err = c.client.CoreV1().Pods(c.namespace).Get(ctx, d.want.Name, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, &NoPodError{d.want.String(), "the pod is gone"}
	case err != nil:
		return nil, err
	case pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil:
		return nil, &NoPodError{d.want.String(), "the pod does not run"}
	}
	return []string{join2(pod.Status.PodIP, d.port)}, nil
}

// workloadAddresses are those of the Ready pods of a workload, the youngest first: it is the one that stays while others are
// being replaced.
func (d *Destination) workloadAddresses(ctx context.Context) ([]string, error) {
	w, err := d.workload(ctx)
	if err != nil {
		return nil, err
	}
	if w.selector == nil {
		return nil, &NoPodError{d.want.String(), "it has no pods"}
	}
	selector, err := metav1.LabelSelectorAsSelector(w.selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s: %w", d.want, err)
	}
	c := d.cluster
	var pods []corev1.Pod
	err = c.call(ctx, "list the pods of "+d.want.Name, func(ctx context.Context) error {
		list, err := c.client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
		if err == nil {
			pods = list.Items
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	var out []string
	for _, p := range pods {
		if p.DeletionTimestamp == nil && p.Status.PodIP != "" && isReady(&p, "") {
			out = append(out, join2(p.Status.PodIP, d.port))
		}
	}
	if len(out) == 0 {
		return nil, &NoPodError{d.want.String(), "no pod of it is Ready"}
	}
	return out, nil
}
