package kube

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func TestReview(t *testing.T) {
	for _, c := range []struct {
		name   string
		denied []string // verb resource/subresource
		want   map[string]string
	}{
		{"all is allowed", nil, nil},
		{"one way to the agent will do", []string{"get pods/proxy"}, nil},
		{"no way to the agent", []string{"get pods/proxy", "create pods/portforward"}, map[string]string{
			"swap a Deployment": "get pods/proxy or create pods/portforward", "swap --new, expose": "get pods/proxy",
		}},
		{"no Services", []string{"create services"}, map[string]string{"swap --new, expose": "create services"}},
		{"no DaemonSets", []string{"patch daemonsets"}, map[string]string{"swap a DaemonSet": "patch daemonsets.apps"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := fake.NewClientset()
			client.PrependReactor("create", "selfsubjectaccessreviews", func(action k8stesting.Action) (bool, runtime.Object, error) {
				review := reviewOf(action)
				a := review.Spec.ResourceAttributes
				what := a.Verb + " " + a.Resource
				if a.Subresource != "" {
					what += "/" + a.Subresource
				}
				review.Status.Allowed = !slices.Contains(c.denied, what)
				return true, review, nil
			})
			uses := Uses()
			_, missing, err := onFake(client).Review(t.Context(), uses)
			if err != nil || len(missing) != len(uses) {
				t.Fatalf("%d verdicts on %d uses, %v", len(missing), len(uses), err)
			}
			for i, u := range uses {
				want, says := c.want[u.Name], ""
				if missing[i] != nil {
					says = missing[i].Why()
				}
				if c.name == "no way to the agent" {
					want = "get pods/proxy"
				}
				if (want == "") != (says == "") || !strings.Contains(says, want) {
					t.Errorf("%s: %q, want %q", u.Name, says, want)
				}
			}
		})
	}
}
