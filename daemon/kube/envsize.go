package kube

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxVariable is how many bytes NAME=VALUE and the zero byte after it may have: Linux'
// MAX_ARG_STRLEN, 32 pages (execve(2), "Limits on size of arguments and environment").
const maxVariable = 128 << 10

// envObject is a ConfigMap or Secret that variables come from.
type envObject struct {
	kind, name string
}

// checkVariables refuses a container whose process no kernel would start: the runtime
// says so in the container's log only. Objects that cannot be read are passed over.
func (c *Cluster) checkVariables(ctx context.Context, t *Target) error {
	var container corev1.Container
	for _, one := range t.work.template.Spec.Containers {
		if one.Name == t.Container {
			container = one
		}
	}
	sizes := c.sizesOf(ctx, container)
	tooLong := func(variable, from string, size int) error {
		return &UnsupportedError{
			Target: t.String(),
			Reason: fmt.Sprintf("its variable %s (%s) would be %d bytes long, and the kernel allows %d (128 KiB) for one, so no process can be started with it, the original's neither", variable, from, size, maxVariable),
			Hint:   "mount that key of the ConfigMap or Secret as a file instead",
		}
	}
	for _, from := range container.EnvFrom {
		var o envObject
		switch {
		case from.ConfigMapRef != nil:
			o = envObject{"configmap", from.ConfigMapRef.Name}
		case from.SecretRef != nil:
			o = envObject{"secret", from.SecretRef.Name}
		}
		for key, size := range sizes[o] {
			if size += len(from.Prefix+key) + len("=\x00"); size > maxVariable {
				return tooLong(from.Prefix+key, "from "+o.kind+"/"+o.name, size)
			}
		}
	}
	for _, v := range container.Env {
		size, source := len(v.Value), "of the pod's specification"
		if o, key := keyOf(v.ValueFrom); o.name != "" {
			size, source = sizes[o][key], "from "+o.kind+"/"+o.name
		}
		if size += len(v.Name) + len("=\x00"); size > maxVariable {
			return tooLong(v.Name, source, size)
		}
	}
	return nil
}

func keyOf(from *corev1.EnvVarSource) (o envObject, key string) {
	switch {
	case from == nil:
	case from.ConfigMapKeyRef != nil:
		return envObject{"configmap", from.ConfigMapKeyRef.Name}, from.ConfigMapKeyRef.Key
	case from.SecretKeyRef != nil:
		return envObject{"secret", from.SecretKeyRef.Name}, from.SecretKeyRef.Key
	}
	return envObject{}, ""
}

// sizesOf are the lengths of the values, by object and key. The values are let go.
func (c *Cluster) sizesOf(ctx context.Context, container corev1.Container) map[envObject]map[string]int {
	sizes := map[envObject]map[string]int{}
	for _, from := range container.EnvFrom {
		if from.ConfigMapRef != nil {
			sizes[envObject{"configmap", from.ConfigMapRef.Name}] = nil
		}
		if from.SecretRef != nil {
			sizes[envObject{"secret", from.SecretRef.Name}] = nil
		}
	}
	for _, v := range container.Env {
		if o, _ := keyOf(v.ValueFrom); o.name != "" {
			sizes[o] = nil
		}
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		found = make(map[envObject]map[string]int, len(sizes))
	)
	for o := range sizes {
		wg.Go(func() {
			lengths := map[string]int{}
			err := c.once(ctx, func(ctx context.Context) error { return c.measure(ctx, o, lengths) })
			if err != nil {
				c.log.Debug("the size of variables is not known", "from", o.kind+"/"+o.name, "err", err)
			}
			mu.Lock()
			defer mu.Unlock()
			found[o] = lengths
		})
	}
	wg.Wait()
	return found
}

func (c *Cluster) measure(ctx context.Context, o envObject, lengths map[string]int) error {
	if o.kind == "secret" {
		secret, err := c.client.CoreV1().Secrets(c.namespace).Get(ctx, o.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for key, value := range secret.Data {
			lengths[key] = len(value)
		}
		return nil
	}
	config, err := c.client.CoreV1().ConfigMaps(c.namespace).Get(ctx, o.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for key, value := range config.Data {
		lengths[key] = len(value)
	}
	return nil
}
