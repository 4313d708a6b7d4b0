package kube

import (
	"fmt"
	"strings"
)

// NoClusterError says that no API server could be asked: there is no kubeconfig,
// it names none, or the server does not answer.
type NoClusterError struct {
	Server string // URL of the API server; empty when the kubeconfig names none
	Reason string // what is wrong, in words
	Hint   string // what to do next
	Err    error
}

func (e *NoClusterError) Error() string {
	if e.Server == "" {
		return join("no cluster: "+e.Reason, e.Hint)
	}
	return join(fmt.Sprintf("no cluster: the API server %s cannot be reached: %s", e.Server, e.Reason), e.Hint)
}

func (e *NoClusterError) Unwrap() error { return e.Err }

// ExpiredError says that the API server does not accept the credentials (401), or
// that the credential plugin could not produce any.
type ExpiredError struct {
	Context string
	User    string
	Server  string
	Reason  string
	Err     error
}

func (e *ExpiredError) Error() string {
	who := "the credentials given by flags"
	if e.User != "" {
		who = fmt.Sprintf("the credentials of user %q", e.User)
	}
	if e.Context != "" {
		who += fmt.Sprintf(" (context %q)", e.Context)
	}
	reason := e.Reason
	if reason == "" {
		reason = "401 Unauthorized"
	}
	return join(fmt.Sprintf("%s are not accepted by %s: %s", who, e.Server, reason),
		"they have expired or were withdrawn; log in again, check with `kubectl auth whoami`, then repeat the command")
}

func (e *ExpiredError) Unwrap() error { return e.Err }

// Missing is one permission that the user has not got.
type Missing struct {
	Verb      string
	Group     string // API group; empty is the core group
	Resource  string // with the subresource: "pods/proxy"
	Name      string // the object asked for; empty for any
	Namespace string
}

func (m Missing) String() string {
	resource := m.Resource
	if m.Group != "" {
		resource = addGroup(m.Resource, m.Group)
	}
	if m.Namespace == "" {
		return fmt.Sprintf("%s %s", m.Verb, resource)
	}
	return fmt.Sprintf("%s %s in namespace %s", m.Verb, resource, m.Namespace)
}

// addGroup writes "deployments/scale" of group "apps" the way kubectl does:
// "deployments.apps/scale".
func addGroup(resource, group string) string {
	name, sub, found := strings.Cut(resource, "/")
	if !found {
		return name + "." + group
	}
	return name + "." + group + "/" + sub
}

// MissingPermissionError lists everything that the user may not do and a swap
// needs, so that it can be granted at once.
type MissingPermissionError struct {
	User      string // as the API server knows the user; empty if it did not say
	Namespace string
	Missing   []Missing
	Err       error
}

func (e *MissingPermissionError) Error() string {
	who := "you"
	if e.User != "" {
		who = fmt.Sprintf("user %q", e.User)
	}
	lines := make([]string, 0, len(e.Missing))
	for _, m := range e.Missing {
		lines = append(lines, "  "+m.String())
	}
	user := e.User
	if user == "" {
		user = "<user>"
	}
	return fmt.Sprintf("missing permission: %s may not\n%s\nask an administrator of the namespace for the role `edit`, which has all of it: %s",
		who, strings.Join(lines, "\n"), bindCommand(user, e.Namespace))
}

func (e *MissingPermissionError) Unwrap() error { return e.Err }

// bindCommand is the kubectl line that gives the role edit in one namespace.
func bindCommand(user, namespace string) string {
	subject := "--user='" + user + "'"
	if rest, ok := strings.CutPrefix(user, "system:serviceaccount:"); ok {
		subject = "--serviceaccount=" + rest
	}
	return fmt.Sprintf("`kubectl create rolebinding teleswap-edit --clusterrole=edit %s --namespace=%s`", subject, namespace)
}

// NotFoundError says that a thing named by the user does not exist, and which
// names come near.
type NotFoundError struct {
	What      string   // "deployment", "namespace", "context", …
	Name      string   //
	Namespace string   // empty for things without
	Near      []string // names that come near, the nearest first
	Names     []string // when there are few: all that exist
	Hint      string
	Err       error
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("%s %q not found", e.What, e.Name)
	if e.Namespace != "" {
		text += " in namespace " + e.Namespace
	}
	switch {
	case len(e.Near) > 0:
		text += "; did you mean " + orList(e.Near) + "?"
	case len(e.Names) > 0:
		text += "; there is " + orList(e.Names)
	}
	return join(text, e.Hint)
}

func (e *NotFoundError) Unwrap() error { return e.Err }

// AmbiguousError says that several workloads have the name.
type AmbiguousError struct {
	Name      string
	Namespace string
	Targets   []string // "deployment/web", "statefulset/web"
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q may be %s in namespace %s\nsay which one: write its kind in front, as in %s", e.Name, orList(e.Targets), e.Namespace, e.Targets[0])
}

// NoContainerError says that the target's pod has no container of that name.
type NoContainerError struct {
	Target    string // "deployment/service-a"
	Container string
	Near      []string
	Names     []string // all containers
	Init      bool     // the name is that of an init container
	Sidecar   bool     // and of one that lives as long as the pod
}

func (e *NoContainerError) Error() string {
	text := fmt.Sprintf("%s has no container %q", e.Target, e.Container)
	switch {
	case e.Sidecar:
		text = fmt.Sprintf("%q of %s is a native sidecar (an init container that is restarted always), which cannot be swapped: the pod's containers begin only after it", e.Container, e.Target)
	case e.Init:
		text = fmt.Sprintf("%q of %s is an init container, which cannot be swapped", e.Container, e.Target)
	}
	if len(e.Near) > 0 {
		text += "; did you mean " + orList(e.Near) + "?"
	}
	return fmt.Sprintf("%s\nits containers: %s; name one as %s:%s", text, strings.Join(e.Names, ", "), e.Target, e.Names[0])
}

// SeveralContainersError says that a container must be named.
type SeveralContainersError struct {
	Target string
	Names  []string
}

func (e *SeveralContainersError) Error() string {
	return fmt.Sprintf("%s has several containers (%s) and none is marked as the default\nsay which one to swap: %s:%s",
		e.Target, strings.Join(e.Names, ", "), e.Target, e.Names[0])
}

// AlreadySwappedError says whose session holds the target.
type AlreadySwappedError struct {
	Namespace string
	Target    string
	Mark      Mark
}

func (e *AlreadySwappedError) Error() string {
	return fmt.Sprintf("%s in namespace %s is already swapped by %s since %s (session %s)\n"+
		"end it there (Ctrl-C, or `teleswap leave %s`); if that laptop is gone, `teleswap restore %s --namespace %s` gives the target back from here",
		e.Target, e.Namespace, e.Mark.Who(), e.Mark.Since.Local().Format("2006-01-02 15:04:05 MST"), e.Mark.ID,
		e.Mark.ID, e.Target, e.Namespace)
}

// NoReplicasError says that the target is scaled to zero, so that there is nothing
// whose place could be taken.
type NoReplicasError struct {
	Namespace string
	Target    string
}

func (e *NoReplicasError) Error() string {
	return fmt.Sprintf("%s in namespace %s is scaled to 0 replicas: there is no pod whose place the local process could take\n"+
		"scale it up first: `kubectl scale %s --replicas=1 --namespace=%s`", e.Target, e.Namespace, e.Target, e.Namespace)
}

// UnsupportedError says that a target of this shape cannot be swapped, and why.
type UnsupportedError struct {
	Target string
	Reason string
	Hint   string
}

func (e *UnsupportedError) Error() string {
	return join(fmt.Sprintf("%s cannot be swapped: %s", e.Target, e.Reason), e.Hint)
}

// PodStuckError says why the agent's pod will not come up, in the words of the
// cluster.
type PodStuckError struct {
	Namespace string
	Pod       string // empty when no pod could be made
	Owner     string // what the pod was to be made for, or from: "deployment/NAME"
	Container string // empty when the pod as a whole is stuck
	Reason    string // "ErrImagePull", "FailedCreate", …
	Message   string // full text of the event, condition or container state
	Hint      string
	Err       error
}

func (e *PodStuckError) Error() string {
	var who string
	switch {
	case e.Pod == "":
		who = fmt.Sprintf("no pod could be made for %s in namespace %s", e.Owner, e.Namespace)
	case e.Container == "":
		who = fmt.Sprintf("pod %s in namespace %s does not start", e.Pod, e.Namespace)
	default:
		who = fmt.Sprintf("container %s of pod %s in namespace %s does not start", e.Container, e.Pod, e.Namespace)
	}
	return join(fmt.Sprintf("%s: %s: %s", who, e.Reason, e.Message), e.Hint)
}

func (e *PodStuckError) Unwrap() error { return e.Err }

func join(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + "\n" + hint
}

// orList writes names as "a, b or c".
func orList(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

func splitResource(resource string) (name, subresource string) {
	name, subresource, _ = strings.Cut(resource, "/")
	return name, subresource
}
