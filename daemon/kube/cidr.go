package kube

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Addresses that no cluster gives to Services: they are reserved for documentation
// (RFC 5737, RFC 3849).
const (
	impossibleIPv4 = "192.0.2.1"
	impossibleIPv6 = "2001:db8::1"
)

// ServiceCIDRs are the ranges from which the cluster gives addresses to Services.
//
// An ordinary user may not read them anywhere, but may ask for a Service with an
// address out of range, as a dry run that makes nothing: the refusal names the range.
// Where that does not answer (no permission to create Services, an admission webhook
// that knows no dry runs): the ServiceCIDR objects, which need a cluster-wide
// permission; and if those may not be read either, the addresses of the Services in the
// namespace one by one.
func (c *Cluster) ServiceCIDRs(ctx context.Context) ([]netip.Prefix, error) {
	if found := c.askCIDRs(ctx); len(found) > 0 {
		return found, nil
	}
	if found := c.listCIDRs(ctx); len(found) > 0 {
		return found, nil
	}
	return c.serviceAddrs(ctx)
}

// askCIDRs asks for the ranges of both families; nothing where that is not answered.
func (c *Cluster) askCIDRs(ctx context.Context) []netip.Prefix {
	var (
		wg       sync.WaitGroup
		prefixes [2][]netip.Prefix
		errs     [2]error
	)
	for i, ip := range []string{impossibleIPv4, impossibleIPv6} {
		wg.Go(func() { prefixes[i], errs[i] = c.askCIDR(ctx, ip) })
	}
	wg.Wait()
	found := slices.Concat(prefixes[0], prefixes[1])
	if len(found) == 0 {
		c.log.Debug("a dry run does not name the range of Services", "err", errors.Join(errs[:]...))
	}
	return found
}

// askCIDR asks for the range by a Service that cannot be.
func (c *Cluster) askCIDR(ctx context.Context, ip string) ([]netip.Prefix, error) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "teleswap-dry-run-"},
		Spec: corev1.ServiceSpec{
			ClusterIP: ip,
			Ports:     []corev1.ServicePort{{Port: 1}},
		},
	}
	var refusal error
	err := c.call(ctx, "ask for the range of Services", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Services(c.namespace).Create(ctx, service, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsInvalid(err) {
			refusal, err = err, nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if refusal == nil {
		return nil, errors.New("a Service out of range was not refused")
	}
	found := parseCIDRs(refusal.Error())
	if len(found) == 0 {
		return nil, refusal
	}
	return found, nil
}

// namedRange is how the API server names the range in its refusal.
var namedRange = regexp.MustCompile(`range of valid IPs is ([0-9a-fA-F.:/]+)`)

func parseCIDRs(text string) []netip.Prefix {
	var out []netip.Prefix
	for _, match := range namedRange.FindAllStringSubmatch(text, -1) {
		if prefix, err := netip.ParsePrefix(match[1]); err == nil && !slices.Contains(out, prefix.Masked()) {
			out = append(out, prefix.Masked())
		}
	}
	return out
}

// listCIDRs reads the ServiceCIDR objects; nothing where the user may not.
func (c *Cluster) listCIDRs(ctx context.Context) []netip.Prefix {
	var out []netip.Prefix
	err := c.once(ctx, func(ctx context.Context) error {
		list, err := c.client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			for _, cidr := range item.Spec.CIDRs {
				if prefix, err := netip.ParsePrefix(cidr); err == nil {
					out = append(out, prefix.Masked())
				}
			}
		}
		return nil
	})
	if err != nil {
		c.log.Debug("the ServiceCIDRs cannot be read", "err", err)
	}
	return out
}

// serviceAddrs are the addresses of the namespace's Services, one by one.
func (c *Cluster) serviceAddrs(ctx context.Context) ([]netip.Prefix, error) {
	var out []netip.Prefix
	err := c.call(ctx, "list services", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Services(c.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		out = nil
		for _, service := range list.Items {
			for _, ip := range service.Spec.ClusterIPs {
				if addr, err := netip.ParseAddr(ip); err == nil { // "None" is no address
					out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
				}
			}
		}
		return nil
	})
	return out, err
}
