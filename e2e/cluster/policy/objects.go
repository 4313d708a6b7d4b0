// Package policy makes a node keep the cluster's NetworkPolicies, which the simple network
// of its pods does not do by itself. It follows policies, pods and namespaces at the API server
// and writes what they come to as one nftables table, the same on every node.
//
// What it holds to is networking.k8s.io/v1 (https://kubernetes.io/docs/concepts/services-networking/network-policies/).
// What is denied is dropped, so that the caller waits, as with most networks of pods in life. Traffic
// between a pod and its node is always allowed. A connection that was there before a policy
// stays, and so does the time between a pod's start and the moment when its address is known.
package policy

import "encoding/json"

// objects have the fields of the API that matter here.

type meta struct {
	Namespace       string            `json:"namespace"`
	Name            string            `json:"name"`
	Labels          map[string]string `json:"labels"`
	ResourceVersion string            `json:"resourceVersion"`
}

type object interface {
	namespace | pod | networkPolicy
	key() string
}

type namespace struct {
	Metadata meta `json:"metadata"`
}

type pod struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		HostNetwork    bool        `json:"hostNetwork"`
		InitContainers []container `json:"initContainers"`
		Containers     []container `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		PodIPs []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
	} `json:"status"`
}

type container struct {
	Ports []struct {
		Name          string `json:"name"`
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol"`
	} `json:"ports"`
}

type networkPolicy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		PodSelector selector `json:"podSelector"`
		PolicyTypes []string `json:"policyTypes"`
		Ingress     []struct {
			From  []peer `json:"from"`
			Ports []port `json:"ports"`
		} `json:"ingress"`
		Egress []struct {
			To    []peer `json:"to"`
			Ports []port `json:"ports"`
		} `json:"egress"`
	} `json:"spec"`
}

type peer struct {
	PodSelector       *selector `json:"podSelector"`
	NamespaceSelector *selector `json:"namespaceSelector"`
	IPBlock           *struct {
		CIDR   string   `json:"cidr"`
		Except []string `json:"except"`
	} `json:"ipBlock"`
}

// port has a number, a name, or nothing: then every port of the protocol is meant.
type port struct {
	Protocol string          `json:"protocol"`
	Port     json.RawMessage `json:"port"`
	EndPort  int             `json:"endPort"`
}

func (m meta) key() string          { return m.Namespace + "/" + m.Name }
func (n namespace) key() string     { return n.Metadata.Name }
func (p pod) key() string           { return p.Metadata.key() }
func (p networkPolicy) key() string { return p.Metadata.key() }

// state is all that the rules follow from, by key.
type state struct {
	namespaces map[string]namespace
	pods       map[string]pod
	policies   map[string]networkPolicy
}

// selector is a metav1.LabelSelector. The empty one takes all.
type selector struct {
	MatchLabels      map[string]string `json:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}
