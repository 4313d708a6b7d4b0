package e2e

import (
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestFidelityTokenRotation has the kubelet give the pod a new token. It does so when four fifths of the old one's time are
// over, which is eight minutes at least, or when it has forgotten the old one: so it is started again. It is not parallel, and so runs before all
// tests that are: their pods are the same kubelet's.
func TestFidelityTokenRotation(t *testing.T) {
	if stage.lab == nil {
		t.Skip(stage.missing)
	}
	t.Run("user", func(t *testing.T) { rotate(t, stage.lab.NewWorld(t)) })
	t.Run("root", func(t *testing.T) { rotate(t, stage.lab.NewRootWorld(t)) })
}

func rotate(t *testing.T, w *scene.World) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	r := newRow(t, w, part{containers: `
- name: sidecar
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -name, sidecar]
  securityContext: RESTRICTED`})
	r.swap()
	sidecar := r.c.Far("http://" + r.agentPod.Status.PodIP + ":7070")
	old := r.local.File(dir + "/token")
	if old == "" || old != sidecar.File(dir+"/token") {
		t.Fatalf("the process's token has %d bytes, and is not its pod's", len(old))
	}
	for _, far := range []scene.Far{r.local, sidecar} {
		far.Ask("watch", "path", dir)
	}
	w.RestartKubelet()
	w.Eventually("a new token in the pod", func() string {
		if sidecar.File(dir+"/token") == old {
			return "the old one"
		}
		return ""
	})
	w.Eventually("the pod's new token for the process", func() string {
		if r.local.File(dir+"/token") != sidecar.File(dir+"/token") {
			return "another"
		}
		return ""
	})
	got, want := swapOfData(r.events(r.local, dir)), swapOfData(r.events(sidecar, dir))
	if len(want) == 0 || strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("inotify tells the process %v, in the pod %v", got, want)
	}
	// The API server takes it, as the pod's.
	if answer := r.local.Ask("incluster", "path", "/api/v1/namespaces/"+w.Namespace+"/secrets"); !strings.Contains(answer, "system:serviceaccount:"+w.Namespace+":app") {
		t.Errorf("the API server answers %s, want a refusal that names the pod's ServiceAccount", answer)
	}
	r.end()
}
