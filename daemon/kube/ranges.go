package kube

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ranges are the addresses of a cluster, as far as the user can learn them.
type Ranges struct {
	Services, Pods []netip.Prefix
	// How says in one line where each is known from.
	How string
}

// maxSeen bounds how many pods are looked at for their addresses.
const maxSeen = 500

// Ranges finds the cluster's addresses without any permission beyond the namespace, and better with more: those of Services by the
// ServiceCIDR objects, else as ServiceCIDRs does; those of pods by what the nodes are given, and by the addresses of the pods that can be
// seen (of all namespaces, or of this one), each of which stands for the customary share of a node. more are addresses of pods that are
// known otherwise. Pods on the network of their node have none of their own.
func (c *Cluster) Ranges(ctx context.Context, more ...netip.Addr) Ranges {
	var r Ranges
	var services, nodes string
	var given, seen []netip.Prefix
	var where string
	var wg sync.WaitGroup
	wg.Go(func() { r.Services, services = c.serviceRanges(ctx) })
	wg.Go(func() { given, nodes = c.nodeRanges(ctx) })
	wg.Go(func() { seen, where = c.seenRanges(ctx, more) })
	wg.Wait()
	r.Pods = given
	var from []string
	if len(given) > 0 {
		from = append(from, nodes)
	}
	if others := slices.DeleteFunc(seen, func(p netip.Prefix) bool { return covered(p, given) }); len(others) > 0 {
		// Who gives pods their addresses need not heed what the nodes are given.
		r.Pods = append(r.Pods, others...)
		from = append(from, where)
	}
	slices.SortFunc(r.Pods, netip.Prefix.Compare)
	slices.SortFunc(r.Services, netip.Prefix.Compare)
	r.How = "Services " + listed(r.Services, services) + "; pods " + listed(r.Pods, strings.Join(from, ", "))
	return r
}

// listed is what is known, and from where.
func listed(ranges []netip.Prefix, from string) string {
	if len(ranges) == 0 {
		return "unknown"
	}
	const few = 4
	texts := make([]string, 0, few)
	for _, p := range ranges[:min(few, len(ranges))] {
		texts = append(texts, p.String())
	}
	if len(ranges) > few {
		texts = append(texts, "…")
	}
	return strings.Join(texts, ", ") + " (" + from + ")"
}

func covered(p netip.Prefix, by []netip.Prefix) bool {
	return slices.ContainsFunc(by, func(b netip.Prefix) bool { return b.Contains(p.Addr()) && b.Bits() <= p.Bits() })
}

// serviceRanges is ServiceCIDRs in the order that fits who may read the objects.
func (c *Cluster) serviceRanges(ctx context.Context) (ranges []netip.Prefix, how string) {
	if ranges = c.listCIDRs(ctx); len(ranges) > 0 {
		return ranges, "ServiceCIDR API"
	}
	if ranges = c.askCIDRs(ctx); len(ranges) > 0 {
		return ranges, "a dry run"
	}
	ranges, err := c.serviceAddrs(ctx)
	if err != nil {
		c.log.Debug("no range of Services", "err", err)
	}
	return ranges, "addresses seen in namespace " + c.namespace
}

// nodeRanges are what the nodes are given for their pods; reading nodes needs a permission in the whole cluster.
func (c *Cluster) nodeRanges(ctx context.Context) (ranges []netip.Prefix, how string) {
	err := c.once(ctx, func(ctx context.Context) error {
		list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, node := range list.Items {
			for _, cidr := range append(slices.Clone(node.Spec.PodCIDRs), node.Spec.PodCIDR) {
				if p, err := netip.ParsePrefix(cidr); err == nil && !slices.Contains(ranges, p.Masked()) {
					ranges = append(ranges, p.Masked())
				}
			}
		}
		return nil
	})
	if err != nil {
		c.log.Debug("no ranges of the nodes", "err", err)
	}
	return ranges, "node specs"
}

// seenRanges are the shares of nodes in which pods are seen.
func (c *Cluster) seenRanges(ctx context.Context, more []netip.Addr) (ranges []netip.Prefix, how string) {
	how = "addresses seen in all namespaces"
	pods, err := c.somePods(ctx, metav1.NamespaceAll)
	if err != nil {
		how = "addresses seen in namespace " + c.namespace
		if pods, err = c.somePods(ctx, c.namespace); err != nil {
			c.log.Debug("no pods to be seen", "err", err)
		}
	}
	addrs := slices.Clone(more)
	for _, pod := range pods {
		if pod.Spec.HostNetwork {
			continue
		}
		for _, ip := range pod.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil {
				addrs = append(addrs, a)
			}
		}
	}
	for _, a := range addrs {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		if p, err := a.Prefix(bits); err == nil && !slices.Contains(ranges, p) {
			ranges = append(ranges, p)
		}
	}
	return ranges, how
}

// somePods lists pods, up to a bound.
func (c *Cluster) somePods(ctx context.Context, namespace string) (pods []corev1.Pod, err error) {
	err = c.once(ctx, func(ctx context.Context) error {
		list, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: maxSeen})
		if err == nil {
			pods = list.Items
		}
		return err
	})
	return pods, err
}
