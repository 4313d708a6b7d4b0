package kube

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestVariableTooLong(t *testing.T) {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	fits := maxVariable - len("BIG=\x00")
	for _, tc := range []struct {
		name   string
		size   int
		change func(*corev1.Container)
		want   string // part of the error; empty: none
	}{
		{"configmap", fits + 1, func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("big")}}}
		}, "variable BIG (from configmap/big) would be 131073 bytes"},
		{"configmap that fits", fits, func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("big")}}}
		}, ""},
		{"a prefix too many", fits, func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{Prefix: "X", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("big")}}}
		}, "variable XBIG (from secret/big)"},
		{"one key of a secret", fits + 1, func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("big"), Key: "BIG"}}}}
		}, "variable KEY (from secret/big)"},
		{"another key", fits + 1, func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("big"), Key: "SMALL"}}}}
		}, ""},
		{"written out", fits + 1, func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "BIG", Value: strings.Repeat("x", fits+1)}}
		}, "of the pod's specification"},
		{"an object that is not there", fits + 1, func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("gone")}}}
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			value := strings.Repeat("x", tc.size)
			c := onFake(fake.NewClientset(
				deploymentOf("web", func(d *appsv1.Deployment) { tc.change(&d.Spec.Template.Spec.Containers[0]) }),
				&corev1.ConfigMap{ObjectMeta: metaOf("big", nil), Data: map[string]string{"BIG": value, "SMALL": "x"}},
				&corev1.Secret{ObjectMeta: metaOf("big", nil), Data: map[string][]byte{"BIG": []byte(value)}},
			))
			_, err := c.Resolve(t.Context(), Ref{Name: "web"})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "xxxx")) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
}
