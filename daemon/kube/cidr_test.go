package kube

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestParseCIDRs(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []netip.Prefix
	}{
		{`Service "x" is invalid: spec.clusterIPs: Invalid value: ["192.0.2.1"]: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16`, prefixes("10.96.0.0/16")},
		{`The range of valid IPs is fd00:10:96::/112`, prefixes("fd00:10:96::/112")},
		{`The range of valid IPs is 10.0.0.5/8, and the range of valid IPs is 10.0.0.0/8`, prefixes("10.0.0.0/8")},
		{`the provided network does not match the current range`, prefixes()},
		{`The range of valid IPs is 10.96.0.0/99`, prefixes()},
	} {
		if got := parseCIDRs(tc.text); !slices.Equal(got, tc.want) {
			t.Errorf("parseCIDRs(%q) = %v, want %v", tc.text, got, tc.want)
		}
	}
}

func FuzzParseCIDRs(f *testing.F) {
	f.Add("The range of valid IPs is 10.96.0.0/16")
	f.Add("range of valid IPs is ::ffff:1.2.3.4/120 range of valid IPs is /")
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range parseCIDRs(text) {
			if !p.IsValid() || p != p.Masked() || !strings.Contains(text, "range of valid IPs is ") {
				t.Errorf("parseCIDRs(%q) gave %v", text, p)
			}
		}
	})
}

func TestServiceCIDRs(t *testing.T) {
	invalid := func(ip, text string) error {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, "x", field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), ip, text)})
	}
	denied := apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New(`User "jane" cannot create resource "services" in API group "" in the namespace "shop"`))
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.7", "fd00::7", "None"}}}
	ranges := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}
	answer := func(v4, v6 error) func(string) error {
		return func(ip string) error {
			if ip == impossibleIPv4 {
				return v4
			}
			return v6
		}
	}
	const named = "not in the valid range. The range of valid IPs is "
	for _, tc := range []struct {
		name    string
		answer  func(ip string) error
		objects []runtime.Object
		want    []netip.Prefix
	}{
		{"one family", answer(invalid("", named+"10.96.0.0/16"), invalid("", "not configured on this cluster")), nil, prefixes("10.96.0.0/16")},
		{"two families", answer(invalid("", named+"10.96.0.0/16"), invalid("", named+"fd00:10:96::/112")), nil, prefixes("10.96.0.0/16", "fd00:10:96::/112")},
		{"no permission, but the objects are to be seen", answer(denied, denied), []runtime.Object{ranges}, prefixes("10.96.0.0/16")},
		{"no permission at all", answer(denied, denied), []runtime.Object{service}, prefixes("10.96.0.7/32", "fd00::7/128")},
		{"a webhook that lets it through", answer(nil, nil), []runtime.Object{service}, prefixes("10.96.0.7/32", "fd00::7/128")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := fake.NewClientset(tc.objects...)
			client.PrependReactor("create", "services", func(action k8stesting.Action) (bool, runtime.Object, error) {
				create := action.(k8stesting.CreateActionImpl)
				if !slices.Equal(create.CreateOptions.DryRun, []string{metav1.DryRunAll}) {
					t.Error("this would have made a Service")
				}
				service := create.Object.(*corev1.Service)
				return true, service, tc.answer(service.Spec.ClusterIP)
			})
			got, err := onFake(client).ServiceCIDRs(t.Context())
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
}
