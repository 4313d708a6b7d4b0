package main

import (
	"slices"
	"strings"
	"testing"
)

func TestChooseLoader(t *testing.T) {
	for _, c := range []struct{ cluster, socket, want string }{
		{"kind-dev", "", "kind load image-archive FILE --name dev"},
		{"k3d-shop", "", "k3d image import FILE --cluster shop"},
		{"minikube", "", "minikube image load FILE"},
		{"docker-desktop", "", "docker load --input FILE"},
		{"kind-dev", "/run/c.sock", "ctr --address /run/c.sock --namespace k8s.io images import FILE"},
	} {
		l, err := chooseLoader(c.cluster, c.socket)
		if err != nil {
			t.Errorf("%q, %q: %v", c.cluster, c.socket, err)
			continue
		}
		argv := slices.Clone(l.argv)
		argv[slices.Index(argv, archive)] = "FILE"
		if got := strings.Join(argv, " "); got != c.want {
			t.Errorf("%q, %q: %s, want %s", c.cluster, c.socket, got, c.want)
		}
	}
	for _, unknown := range []string{"", "gke_project_zone_name", "kindly"} {
		if l, err := chooseLoader(unknown, ""); err == nil || !strings.Contains(err.Error(), "image push") {
			t.Errorf("%q: %v, %v; want a word of what else there is", unknown, l, err)
		}
	}
}

func TestPluginName(t *testing.T) {
	for program, want := range map[string]string{
		"/usr/bin/teleswap": "", "kubectl-teleswap": "kubectl teleswap", "/x/kubectl-teleswap.exe": "kubectl teleswap",
		"kubectl_complete-teleswap": "kubectl teleswap", "kubectl": "",
	} {
		if got := pluginName(program); got != want {
			t.Errorf("%s is called as %q, want %q", program, got, want)
		}
	}
	if !completes("/bin/kubectl_complete-teleswap") || completes("/bin/kubectl-teleswap") {
		t.Error("kubectl's question for completions is not known by its name")
	}
}
