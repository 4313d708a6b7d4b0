package session

import (
	"net/netip"
	"testing"
)

func TestRoute(t *testing.T) {
	r := routes{
		Cluster: []netip.Prefix{
			netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("34.118.224.0/20"), // GKE's are public
			podSubnet(netip.MustParseAddr("10.244.0.9")), podSubnet(netip.MustParseAddr("fd00:10:244::9")),
		},
		Own: []netip.Addr{netip.MustParseAddr("192.168.1.20"), netip.MustParseAddr("10.244.7.1")},
	}
	cases := []struct {
		name       string
		dst        string
		fromLaptop bool
		want       way
	}{
		{"a Service", "10.96.3.4", false, viaCluster},
		{"a Service with a public address", "34.118.225.1", false, viaCluster},
		{"a pod of the same node", "10.244.0.77", false, viaCluster},
		{"a pod of another node", "10.244.5.77", false, viaCluster},
		{"a pod by IPv6", "fd00:10:244::77", false, viaCluster},
		{"another ULA", "fd77::1", false, viaCluster},
		{"a database in the VPC", "172.31.9.9", false, viaCluster},
		{"carrier grade space, EKS pods", "100.64.3.3", false, viaCluster},
		{"an office machine named by the laptop's resolver", "172.31.9.9", true, viaLaptop},
		{"a Service that the laptop's resolver named", "10.96.3.4", true, viaCluster},
		{"the laptop itself", "192.168.1.20", false, viaLaptop},
		{"the laptop's address that looks like a pod's", "10.244.7.1", false, viaLaptop},
		{"the internet", "140.82.121.3", false, viaLaptop},
		{"the internet by IPv6", "2606:4700::1111", false, viaLaptop},
		{"cloud metadata", "169.254.169.254", false, viaLaptop},
		{"link local", "fe80::1", false, viaLaptop},
		{"mapped", "::ffff:10.96.3.4", false, viaCluster},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := r.choose(netip.MustParseAddr(c.dst), c.fromLaptop); got != c.want {
				t.Errorf("%s goes by the %s, want %s", c.dst, got, c.want)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	var a answers
	office, shared := netip.MustParseAddr("172.31.9.9"), netip.MustParseAddr("172.31.9.10")
	a.answered(true, []netip.Addr{office, shared})
	a.answered(false, []netip.Addr{shared}) // the pod's resolver knows it as well
	if !a.laptopKnows(office) || a.laptopKnows(shared) {
		t.Errorf("laptop alone knows office %v, shared %v; want true, false", a.laptopKnows(office), a.laptopKnows(shared))
	}
	next := netip.MustParseAddr("172.16.0.0")
	for range maxAnswers {
		next = next.Next()
		a.answered(true, []netip.Addr{next})
	}
	if a.laptopKnows(office) {
		t.Error("the oldest answer is still known: memory is not bounded")
	}
	if len(a.fromLaptop) > maxAnswers || len(a.order) > maxAnswers {
		t.Errorf("%d addresses remembered, want at most %d", len(a.fromLaptop), maxAnswers)
	}
}

func TestStates(t *testing.T) {
	all := []State{Starting, Active, Restoring, Stuck, Ended}
	allowed := map[[2]State]bool{
		{Starting, Active}: true, {Starting, Restoring}: true, {Active, Restoring}: true,
		{Restoring, Stuck}: true, {Restoring, Ended}: true, {Stuck, Restoring}: true, {Stuck, Ended}: true,
	}
	for _, from := range all {
		for _, to := range all {
			if got := from.mayBecome(to); got != allowed[[2]State{from, to}] {
				t.Errorf("%s may become %s: %v", from, to, got)
			}
		}
	}
}
