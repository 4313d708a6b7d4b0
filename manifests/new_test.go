package manifests

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

func TestNewGolden(t *testing.T) {
	listen, udp := []int32{80, 8080}, []int32{53}
	in := AgentInput{
		Target:    Workload{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "hello", Template: NewTemplate("app", "robot", listen, udp)},
		Container: "app", Session: "k3f9qz", Name: AgentName("hello", "k3f9qz"), Image: "example.org/agent:1", TunnelPort: 15100,
		Listen: listen, ListenUDP: udp, KeysSecret: AgentName("hello", "k3f9qz"), New: true,
	}
	d, err := NewDeployment(in, `{"id":"k3f9qz"}`)
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "new", d)
	checkSound(t, d)
	if len(d.OwnerReferences) != 0 {
		t.Errorf("what is new has owners: %v", d.OwnerReferences)
	}

	// What is made after the Deployment goes with it.
	in.Target.UID = "5b1f1e0c-6a54-4a0b-9a55-0d3f1a2b3c4d"
	service := NewService(in)
	checkText(t, "new-service", service)
	if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
		t.Error("the Service does not select the pod")
	}
	if owner := KeysSecret(in, nil).OwnerReferences; len(owner) != 1 || owner[0].Name != "hello" {
		t.Errorf("the Secret's owner: %v", owner)
	}
	in.Listen, in.ListenUDP = nil, nil
	if service := NewService(in); service != nil {
		t.Errorf("a Service without ports: %v", service)
	}
}
