package daemon

import "testing"

func TestClusterDomain(t *testing.T) {
	for _, c := range []struct {
		search []string
		want   string
	}{
		{[]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example.com"}, "cluster.local"},
		{[]string{"shop.svc.k8s.example.com.", "svc.k8s.example.com"}, "k8s.example.com"},
		{[]string{"corp.example.com"}, "cluster.local"},
		{nil, "cluster.local"},
	} {
		if got := clusterDomain("shop", c.search); got != c.want {
			t.Errorf("%v: %s, want %s", c.search, got, c.want)
		}
	}
}
