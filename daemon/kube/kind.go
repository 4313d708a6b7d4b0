package kube

import (
	"slices"
	"strings"
)

// Kind is what sort of workload a target is, spelled as Kubernetes does.
type Kind string

// The kinds that can be swapped.
const (
	Deployment  Kind = "Deployment"
	StatefulSet Kind = "StatefulSet"
	DaemonSet   Kind = "DaemonSet"
	ReplicaSet  Kind = "ReplicaSet"
	CronJob     Kind = "CronJob"
	Job         Kind = "Job"
	Pod         Kind = "Pod"
)

// Kinds are those that can be swapped, in the order in which a name is looked for.
func Kinds() []Kind {
	return []Kind{Deployment, StatefulSet, DaemonSet, ReplicaSet, CronJob, Job, Pod}
}

// short are kubectl's short names, and the one that people write all the same.
func (k Kind) short() []string {
	switch k {
	case Deployment:
		return []string{"deploy"}
	case StatefulSet:
		return []string{"sts"}
	case DaemonSet:
		return []string{"ds"}
	case ReplicaSet:
		return []string{"rs"}
	case CronJob:
		return []string{"cj"}
	case Pod:
		return []string{"po"}
	case Job:
	}
	return nil
}

// ParseKind reads a kind in any of the ways in which kubectl takes it: singular or
// plural, in any case, with its group or short.
func ParseKind(text string) (Kind, bool) {
	text = strings.ToLower(text)
	for _, k := range Kinds() {
		name := k.String()
		if text == name || text == k.resource() || slices.Contains(k.short(), text) {
			return k, true
		}
		if group := k.group(); group != "" && (text == name+"."+group || text == k.resource()+"."+group) {
			return k, true
		}
	}
	return "", false
}

// String is the kind as flags and messages name it; the zero value is a Deployment, as
// in records of versions that knew no other.
func (k Kind) String() string {
	if k == "" {
		k = Deployment
	}
	return strings.ToLower(string(k))
}

func (k Kind) orDeployment() Kind {
	if k == "" {
		return Deployment
	}
	return k
}

func (k Kind) resource() string { return k.String() + "s" }

func (k Kind) group() string {
	switch k {
	case Pod:
		return ""
	case Job, CronJob:
		return "batch"
	case "", Deployment, StatefulSet, DaemonSet, ReplicaSet:
	}
	return "apps"
}

func (k Kind) apiVersion() string {
	if group := k.group(); group != "" {
		return group + "/v1"
	}
	return "v1"
}

// scales reports whether pods of this kind go and come by spec.replicas.
func (k Kind) scales() bool {
	switch k {
	case "", Deployment, StatefulSet, ReplicaSet:
		return true
	case DaemonSet, CronJob, Job, Pod:
	}
	return false
}

// runsOnce reports whether pods of this kind do a piece of work and end.
func (k Kind) runsOnce() bool { return k == Job || k == CronJob }

// parks reports whether one pod of this kind is put aside, because it cannot be scaled.
func (k Kind) parks() bool { return k == Pod || k == DaemonSet }

// Object names a workload in a namespace.
type Object struct {
	Kind Kind   // empty: a Deployment
	Name string //
	// Pod is the one pod of a DaemonSet that is swapped; empty otherwise.
	Pod string
}

// String is "deployment/NAME".
func (o Object) String() string { return o.Kind.String() + "/" + o.Name }

// MeansTarget tells whether a selector is one of the ways to write a target: KIND/NAME, NAME, or with a container behind it as the
// target has one. What has no kind (a connect) is written as it is.
func MeansTarget(selector, target string) bool {
	kind, bare, isObject := strings.Cut(target, "/")
	if !isObject {
		return selector == target
	}
	name, _, _ := strings.Cut(bare, ":")
	said, selected, hasKind := strings.Cut(selector, "/")
	if !hasKind {
		selected = selector
	} else if k, known := ParseKind(said); !known || k.String() != kind {
		return false
	}
	return selected == bare || selected == name
}
