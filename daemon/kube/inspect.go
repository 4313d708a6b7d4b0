package kube

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/version"
)

// User is who the kubeconfig says that one is; empty where flags say it.
func (c *Cluster) User() string { return c.user }

// ServerVersion asks the API server for its version; that also tells whether it is there and accepts the credentials.
// A server that keeps its version to itself answers with the empty string. Errors: *NoClusterError, *ExpiredError.
func (c *Cluster) ServerVersion(ctx context.Context) (string, error) {
	var info version.Info
	err := c.once(ctx, func(ctx context.Context) error {
		data, err := c.client.Discovery().RESTClient().Get().AbsPath("/version").SetHeader("Accept", "application/json").DoRaw(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &info)
	})
	if apierrors.IsForbidden(err) {
		return "", nil
	}
	return info.GitVersion, c.explain("ask the API server for its version", err)
}

// CheckNamespace says whether the cluster's namespace is known not to exist: a *NotFoundError. Nil where the user may not ask.
func (c *Cluster) CheckNamespace(ctx context.Context) error {
	return c.checkNamespace(ctx, "what you look for")
}

// Use is something that one may want to do, with what it needs.
type Use struct {
	Name   string
	Needed []Permission
	// Tunnel: it needs a way to an agent, too; any of Tunnels.
	Tunnel bool
	// Kind is the kind of target that it is about; empty: none.
	Kind Kind
}

// Uses are the things that Teleswap does with a cluster, by what they need.
func Uses() []Use {
	var all []Use
	for _, k := range Kinds() {
		all = append(all, Use{Name: "swap a " + string(k), Needed: Needed(k), Tunnel: true, Kind: k})
	}
	return append(all,
		Use{Name: "swap --new, expose", Needed: append(Needed(Deployment), forService()...), Tunnel: true},
		Use{Name: "connect, forward", Needed: connectNeeds(), Tunnel: true},
	)
}

// Review asks what is missing for each of the uses, in their order: nil for a use that may be had. It also tells who asks, as
// the API server knows the user; empty where it does not say.
func (c *Cluster) Review(ctx context.Context, uses []Use) (user string, missing []*MissingPermissionError, err error) {
	asked := map[Permission]struct{}{}
	for _, u := range uses {
		for _, p := range u.Needed {
			asked[question(p)] = struct{}{}
		}
	}
	for _, way := range Tunnels() {
		for _, p := range way {
			asked[question(p)] = struct{}{}
		}
	}
	list := make([]Permission, 0, len(asked))
	for p := range asked {
		list = append(list, p)
	}
	allowed, err := c.review(ctx, list)
	if err != nil {
		return "", nil, err
	}
	user = c.whoAmI(ctx)
	for _, u := range uses {
		lacks := c.lacks(allowed, u)
		if len(lacks) == 0 {
			missing = append(missing, nil)
			continue
		}
		missing = append(missing, &MissingPermissionError{User: user, Namespace: c.namespace, Missing: lacks})
	}
	return user, missing, nil
}

// question is a permission without what it is for, which is no part of the question.
func question(p Permission) Permission {
	p.For = ""
	return p
}

// lacks are the permissions that a use needs and that are not in allowed.
func (c *Cluster) lacks(allowed map[Permission]bool, u Use) []Missing {
	var out []Missing
	for _, p := range u.Needed {
		if !allowed[question(p)] {
			out = append(out, c.missing(p))
		}
	}
	if !u.Tunnel {
		return out
	}
	var ways []Missing
	for _, way := range Tunnels() {
		whole := true
		for _, p := range way {
			if !allowed[question(p)] {
				whole = false
				ways = append(ways, c.missing(p))
			}
		}
		if whole {
			return out
		}
	}
	return append(out, ways...)
}

// Why is the error without what to do about it.
func (e *MissingPermissionError) Why() string {
	who := "you"
	if e.User != "" {
		who = fmt.Sprintf("user %q", e.User)
	}
	return who + " may not " + orList(e.lines())
}

// Do is what to do about the error.
func (e *MissingPermissionError) Do() string {
	user := e.User
	if user == "" {
		user = "<user>"
	}
	return "ask an administrator of the namespace for the role `edit`, which has all of it: " + bindCommand(user, e.Namespace)
}

func (e *MissingPermissionError) lines() []string {
	out := make([]string, 0, len(e.Missing))
	for _, m := range e.Missing {
		m.Namespace = "" // said once, in what to do
		out = append(out, m.String())
	}
	return out
}
