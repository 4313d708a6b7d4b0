package kube

import (
	"context"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxServices bounds how many Services are named.
const maxServices = 5000

// ServiceNames are the names by which Services are called from the cluster's namespace, sorted: NAME for those of the namespace, and
// NAME.NAMESPACE for all that the user may see.
func (c *Cluster) ServiceNames(ctx context.Context) ([]string, error) {
	names, err := c.serviceNames(ctx, metav1.NamespaceAll)
	if isDenied(err) {
		names, err = c.serviceNames(ctx, c.namespace)
	}
	slices.Sort(names)
	return names, err
}

func (c *Cluster) serviceNames(ctx context.Context, namespace string) (names []string, err error) {
	err = c.call(ctx, "list services", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{Limit: maxServices})
		if err != nil {
			return err
		}
		names = nil
		for _, s := range list.Items {
			names = append(names, s.Name+"."+s.Namespace)
			if s.Namespace == c.namespace {
				names = append(names, s.Name)
			}
		}
		return nil
	})
	return names, err
}
