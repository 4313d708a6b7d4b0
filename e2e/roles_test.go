package e2e

import (
	"fmt"
	"slices"
	"strings"
)

func account(name string) string {
	return "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + name + "}\n"
}

func roleBinding(account, kind, role string) string {
	return "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: " + account + "}\n" +
		"subjects: [{kind: ServiceAccount, name: " + account + "}]\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: " + kind + ", name: " + role + "}\n"
}

// roleWithout is a Role with all that a swap can make use of, but for one verb of one resource.
func roleWithout(name, resource, verb string) string {
	text := "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: " + name + "}\nrules:\n"
	for _, r := range []struct{ group, resource, verbs string }{
		{"apps", "deployments", "get,list,watch,create,patch,update,delete"},
		{"apps", "deployments/scale", "get,patch,update"},
		{"apps", "replicasets", "get,list,watch,patch,update"},
		{"", "pods", "get,list,watch"},
		{"", "pods/proxy", "get,create"},
		{"", "pods/portforward", "get,create"},
		{"", "pods/log", "get"},
		{"", "services", "get,list,watch,create"},
		{"", "events", "get,list,watch"},
		{"", "secrets", "get,list,watch,create,patch,update,delete"},
		{"autoscaling", "horizontalpodautoscalers", "get,list,watch"},
		{"policy", "poddisruptionbudgets", "get,list,watch"},
		{"discovery.k8s.io", "endpointslices", "get,list,watch"},
	} {
		verbs := strings.Split(r.verbs, ",")
		if r.resource == resource {
			verbs = slices.DeleteFunc(verbs, func(v string) bool { return v == verb || verb == "*" })
		}
		if len(verbs) > 0 {
			text += fmt.Sprintf("- {apiGroups: [%q], resources: [%q], verbs: [%s]}\n", r.group, r.resource, strings.Join(verbs, ","))
		}
	}
	return text
}
