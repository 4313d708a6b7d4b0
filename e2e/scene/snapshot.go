package scene

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// watched are the kinds that a swap could leave something in: those that issue
// and README name (deploy,rs,po,svc,secret,sa,role), and their neighbours.
func watched() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "apps", Version: "v1", Resource: "replicasets"},
		{Group: "apps", Version: "v1", Resource: "statefulsets"},
		{Group: "apps", Version: "v1", Resource: "daemonsets"},
		{Version: "v1", Resource: "pods"},
		{Version: "v1", Resource: "services"},
		{Version: "v1", Resource: "secrets"},
		{Version: "v1", Resource: "configmaps"},
		{Version: "v1", Resource: "serviceaccounts"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
		{Group: "batch", Version: "v1", Resource: "jobs"},
		{Group: "batch", Version: "v1", Resource: "cronjobs"},
		{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"},
	}
}

// Snapshot is a namespace's objects as YAML, without what Kubernetes itself changes
// when pods come and go. Key: kind/name, with a number where names repeat.
type Snapshot map[string]string

// TakeSnapshot reads every watched kind of the namespace.
func TakeSnapshot(ctx context.Context, client dynamic.Interface, namespace string) (Snapshot, error) {
	var objects []unstructured.Unstructured
	for _, kind := range watched() {
		list, err := client.Resource(kind).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		objects = append(objects, list.Items...)
	}
	return Normalise(objects)
}

// Normalise drops from each object exactly what is allowed to differ before and after
// a swap, and nothing more:
//
//   - status, and of the metadata resourceVersion, uid, generation, managedFields and
//     creationTimestamp; uids in ownerReferences;
//   - of a pod that a controller made: the random end of its name, and of the name of
//     the volume that holds its ServiceAccount token.
func Normalise(objects []unstructured.Unstructured) (Snapshot, error) {
	texts := map[string][]string{}
	for _, o := range objects {
		o := o.DeepCopy()
		normaliseMetadata(o)
		if o.GetKind() == "Pod" {
			normalisePod(o)
		}
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("encode %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		key := o.GetKind() + "/" + o.GetName()
		texts[key] = append(texts[key], tokenVolume.ReplaceAllString(string(text), "kube-api-access-*"))
	}
	snapshot := Snapshot{}
	for key, same := range texts {
		slices.Sort(same)
		for i, text := range same {
			snapshot[fmt.Sprintf("%s#%d", key, i+1)] = text
		}
	}
	return snapshot, nil
}

// tokenVolume is the name that the ServiceAccount admission plugin gives to the volume it adds.
var tokenVolume = regexp.MustCompile(`\bkube-api-access-[a-z0-9]{5}\b`)

func normaliseMetadata(o *unstructured.Unstructured) {
	delete(o.Object, "status")
	for _, field := range []string{"resourceVersion", "uid", "generation", "managedFields", "creationTimestamp"} {
		unstructured.RemoveNestedField(o.Object, "metadata", field)
	}
	owners, found, err := unstructured.NestedSlice(o.Object, "metadata", "ownerReferences")
	if !found || err != nil {
		return
	}
	for _, owner := range owners {
		if m, ok := owner.(map[string]any); ok {
			delete(m, "uid")
		}
	}
	_ = unstructured.SetNestedSlice(o.Object, owners, "metadata", "ownerReferences")
}

func normalisePod(o *unstructured.Unstructured) {
	if o.GetGenerateName() != "" {
		o.SetName(o.GetGenerateName() + "*")
	}
}

// Diff is empty when both are the same; otherwise a line for each that is not.
func (s Snapshot) Diff(after Snapshot) string {
	var b strings.Builder
	keys := slices.Sorted(maps.Keys(s))
	for key := range after {
		if _, ok := s[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		was, had := s[key]
		is, has := after[key]
		switch {
		case !had:
			fmt.Fprintf(&b, "new: %s\n%s", key, indent(is))
		case !has:
			fmt.Fprintf(&b, "gone: %s\n", key)
		case was != is:
			fmt.Fprintf(&b, "changed: %s\n%s", key, lineDiff(was, is))
		}
	}
	return b.String()
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ") + "\n"
}

// lineDiff tells lines that only one of both has. Order is not shown: both texts are
// written with sorted keys.
func lineDiff(was, is string) string {
	var b strings.Builder
	count := map[string]int{}
	for line := range strings.Lines(is) {
		count[line]++
	}
	for line := range strings.Lines(was) {
		if count[line] == 0 {
			b.WriteString("  - " + line)
			continue
		}
		count[line]--
	}
	for line := range strings.Lines(is) {
		if count[line] > 0 {
			count[line]--
			b.WriteString("  + " + line)
		}
	}
	if b.Len() == 0 {
		b.WriteString("  (the same lines in another order)\n")
	}
	return b.String()
}
