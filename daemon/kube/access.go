package kube

import (
	"context"
	"slices"
	"sync"

	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Permission is one line of what a swap needs in the target's namespace.
type Permission struct {
	Verb     string
	Group    string // API group; empty is the core group
	Resource string
	For      string // what it is needed for
}

// Needed are the permissions without which no target of a kind can be swapped. The
// ClusterRole `edit`, bound in the namespace, has all of them.
func Needed(k Kind) []Permission { return append(needed(), neededFor(k)...) }

// neededFor are those that a target of the kind needs.
func neededFor(k Kind) []Permission {
	group, resource := k.group(), k.resource()
	out := []Permission{
		{"get", group, resource, "find the target"},
		{"patch", group, resource, "mark the target as swapped"},
	}
	if k.scales() {
		out = append(out,
			Permission{"watch", group, resource, "wait for the target"},
			Permission{"patch", group, resource + "/scale", "scale the target down and up"},
			Permission{"create", "apps", "deployments", "make the agent"},
			Permission{"delete", "apps", "deployments", "take the agent away"},
		)
		return out
	}
	out = append(out,
		Permission{"create", "", "pods", "make the agent"},
		Permission{"delete", "", "pods", "take the agent away"},
	)
	if k == DaemonSet {
		out = append(out,
			Permission{"get", "", "pods", "find the pod whose place is taken"},
			Permission{"patch", "", "pods", "put the original pod aside"},
			Permission{"watch", group, resource, "wait for the target"},
		)
	}
	return out
}

// needed are those that every swap needs.
func needed() []Permission {
	return []Permission{
		{"list", "apps", "deployments", "wait for the agent"},
		{"watch", "apps", "deployments", "wait for the agent"},
		{"list", "apps", "replicasets", "see that the agent is gone"},
		{"watch", "apps", "replicasets", "see that the agent is gone"},
		{"list", "", "pods", "find the agent's pod and the target's"},
		{"watch", "", "pods", "wait for pods to be ready and to be gone"},
		{"create", "", "secrets", "give the agent its keys"},
		{"delete", "", "secrets", "take the keys away"},
		{"list", "", "services", "learn which ports are served"},
	}
}

// Tunnels are the ways to the agent's pod through the API server. A swap needs all the
// lines of at least one way.
func Tunnels() [][]Permission {
	return [][]Permission{
		{{"get", "", "pods/proxy", "reach the agent (pod-proxy)"}},
		{{"create", "", "pods/portforward", "reach the agent (port-forward)"}},
	}
}

// Useful are the permissions that a swap does without; what is lost is said in For.
// `edit` has all but the last.
func Useful() []Permission {
	return []Permission{
		{"list", "", "events", "tell why a pod does not start in the events' own words"},
		{"watch", "", "events", "tell why a pod waits"},
		{"list", "discovery.k8s.io", "endpointslices", "see that Services know the agent before the target is scaled down"},
		{"watch", "discovery.k8s.io", "endpointslices", "see that Services know the agent before the target is scaled down"},
		{"list", "autoscaling", "horizontalpodautoscalers", "note an autoscaler of the target"},
		{"list", "networking.k8s.io", "networkpolicies", "know the labels by which policies find a pod that is put aside"},
		{"get", "", "configmaps", "see that no variable is too long for the kernel"},
		{"get", "", "secrets", "see that no variable is too long for the kernel"},
		{"get", "", "persistentvolumeclaims", "know whether two pods may mount a volume at a time"},
		{"patch", "apps", "replicasets", "remove the mark that Kubernetes copied to the target's ReplicaSets"},
		{"deletecollection", "apps", "replicasets", "take the agent away at once instead of by garbage collection"},
		{"deletecollection", "", "pods", "take the agent away at once instead of by garbage collection"},
		{"get", "", "pods/portforward", "port-forward over WebSocket; SPDY is used otherwise"},
		{"create", "", "services", "learn the range of Service addresses (a dry run: nothing is made)"},
		{"get", "", "namespaces", "tell an unknown namespace from an unknown Deployment"},
		{"list", "", "namespaces", "suggest a namespace of nearly that name (cluster-wide)"},
	}
}

// CheckAccess asks the API server for every permission that a swap needs, all at
// once. What is missing is one *MissingPermissionError. Where the kind is not known yet
// (empty) it asks for a Deployment's; Resolve asks for those of the kind that it finds.
func (c *Cluster) CheckAccess(ctx context.Context, kind string) error {
	k, _ := ParseKind(kind) // Resolve says that there is no such kind
	return c.checkNeeds(ctx, Needed(k.orDeployment()))
}

// checkNeeds asks for all of needed, and for one way to the agent's pod.
func (c *Cluster) checkNeeds(ctx context.Context, needed []Permission) error {
	tunnels := Tunnels()
	asked := slices.Clone(needed)
	for _, way := range tunnels {
		asked = append(asked, way...)
	}
	allowed, err := c.review(ctx, asked)
	if err != nil {
		return err
	}
	missing := c.without(allowed, needed)
	if !slices.ContainsFunc(tunnels, func(way []Permission) bool {
		return !slices.ContainsFunc(way, func(p Permission) bool { return !allowed[p] })
	}) {
		for _, way := range tunnels {
			missing = append(missing, c.without(allowed, way)...)
		}
	}
	return c.missingError(ctx, missing)
}

// checkKind asks for what a target of a kind needs.
func (c *Cluster) checkKind(ctx context.Context, k Kind) error {
	needed := neededFor(k)
	allowed, err := c.review(ctx, needed)
	if err != nil {
		return err
	}
	return c.missingError(ctx, c.without(allowed, needed))
}

// without are those of the needed permissions that are not allowed.
func (c *Cluster) without(allowed map[Permission]bool, needed []Permission) []Missing {
	var missing []Missing
	for _, p := range needed {
		if !allowed[p] {
			missing = append(missing, c.missing(p))
		}
	}
	return missing
}

func (c *Cluster) missingError(ctx context.Context, missing []Missing) error {
	if len(missing) == 0 {
		return nil
	}
	return &MissingPermissionError{User: c.whoAmI(ctx), Namespace: c.namespace, Missing: missing}
}

func (c *Cluster) missing(p Permission) Missing {
	return Missing{Verb: p.Verb, Group: p.Group, Resource: p.Resource, Namespace: c.namespace}
}

// review asks for each permission, in parallel.
func (c *Cluster) review(ctx context.Context, asked []Permission) (map[Permission]bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		allowed = make(map[Permission]bool, len(asked))
		failure error
	)
	for _, p := range asked {
		wg.Go(func() {
			ok, err := c.mayI(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			allowed[p] = ok
			if err != nil && failure == nil {
				failure = err
				cancel() // one answer says it all: no need to wait for the others
			}
		})
	}
	wg.Wait()
	return allowed, failure
}

func (c *Cluster) mayI(ctx context.Context, p Permission) (bool, error) {
	resource, subresource := splitResource(p.Resource)
	review := &authz.SelfSubjectAccessReview{Spec: authz.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authz.ResourceAttributes{
			Namespace: c.namespace, Verb: p.Verb, Group: p.Group, Resource: resource, Subresource: subresource,
		},
	}}
	var ok bool
	err := c.call(ctx, "ask for permissions", func(ctx context.Context) error {
		answer, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil {
			ok = answer.Status.Allowed
		}
		return err
	})
	return ok, err
}

// whoAmI is the user's name as the API server knows it; empty where it does not say
// (before Kubernetes 1.28).
func (c *Cluster) whoAmI(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answer, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authn.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return ""
	}
	return answer.Status.UserInfo.Username
}
