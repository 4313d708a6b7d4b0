package manifests

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

func readTarget(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	if err := yaml.UnmarshalStrict(text, &d); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return &d
}

func workloadOf(d *appsv1.Deployment) Workload {
	return Workload{APIVersion: "apps/v1", Kind: "Deployment", Namespace: d.Namespace, Name: d.Name, UID: d.UID, Template: d.Spec.Template}
}

func inputFor(d *appsv1.Deployment, listen ...int32) AgentInput {
	name := AgentName(d.Name, "k3f9qz")
	return AgentInput{
		Target: workloadOf(d), Container: "app", Session: "k3f9qz", Name: name, Image: "example.org/agent:1",
		TunnelPort: 15100, Listen: listen, KeysSecret: name,
	}
}

var goldenCases = []struct {
	name   string
	listen []int32
	policy corev1.PullPolicy
}{
	{name: "simple", listen: []int32{8080}, policy: corev1.PullNever},
	{name: "sidecars", listen: []int32{8080}},
	{name: "restricted", listen: []int32{8443}},
	{name: "volumes"},
	{name: "ports", listen: []int32{9090, 80, 80}},
	{name: "placement"},
	{name: "long-name", listen: []int32{8080}},
}

func TestAgentGolden(t *testing.T) {
	for _, tc := range goldenCases {
		t.Run(tc.name, func(t *testing.T) {
			target := readTarget(t, tc.name)
			before := target.DeepCopy()
			in := inputFor(target, tc.listen...)
			in.PullPolicy = tc.policy
			agent, err := Agent(in)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tc.name, agent)
			checkSound(t, agent)

			// Whatever is done to the result must not reach the input.
			agent.Spec.Template.Labels["x"] = "y"
			agent.Spec.Template.Spec.Containers[0].Image = "changed"
			for i := range agent.Spec.Template.Spec.Volumes {
				agent.Spec.Template.Spec.Volumes[i].Name = "changed"
			}
			if !equality.Semantic.DeepEqual(before, target) {
				t.Error("the target was changed")
			}
		})
	}
}

func checkGolden(t *testing.T, name string, agent *appsv1.Deployment) {
	t.Helper()
	checkText(t, name, agent)
}

func checkText(t *testing.T, name string, object any) {
	t.Helper()
	got, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".golden.yaml")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (make it with -update)", err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s (renew it with -update):\n%s", file, got)
	}
}

// checkSound checks what the API server would.
func checkSound(t *testing.T, agent *appsv1.Deployment) {
	t.Helper()
	template := agent.Spec.Template
	selector, err := metav1.LabelSelectorAsSelector(agent.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	if !selector.Matches(labels.Set(template.Labels)) {
		t.Error("the selector does not match the template")
	}
	if problems := validation.IsDNS1123Label(agent.Name); len(problems) > 0 {
		t.Errorf("name %q: %v", agent.Name, problems)
	}
	volumes := make(map[string]bool)
	for _, v := range template.Spec.Volumes {
		if volumes[v.Name] {
			t.Errorf("two volumes %q", v.Name)
		}
		volumes[v.Name] = true
	}
	for _, c := range template.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("container %s mounts volume %q, which is not there", c.Name, m.Name)
			}
		}
	}
}

// TestAgentReplacesOneContainer holds for any target: only that container, its keys
// and the pod's grace are other than before.
func TestAgentReplacesOneContainer(t *testing.T) {
	target := readTarget(t, "sidecars")
	agent, err := Agent(inputFor(target, 8080))
	if err != nil {
		t.Fatal(err)
	}
	was, is := target.Spec.Template.Spec, agent.Spec.Template.Spec
	if !equality.Semantic.DeepEqual(was.InitContainers, is.InitContainers) {
		t.Error("init containers differ")
	}
	if !equality.Semantic.DeepEqual(was.Containers[0], is.Containers[0]) {
		t.Error("the sidecar differs")
	}
	if got := *is.TerminationGracePeriodSeconds; got != 90 {
		t.Errorf("grace = %d, want the target's 90", got)
	}
	if !strings.Contains(is.Containers[1].Image, "agent") {
		t.Errorf("image = %s", is.Containers[1].Image)
	}
	if equality.Semantic.DeepEqual(target.Spec.Selector, agent.Spec.Selector) {
		t.Error("the agent has the target's selector and would take its pods")
	}
}

func TestAgentRefusesBadInput(t *testing.T) {
	good := func() AgentInput { return inputFor(readTarget(t, "simple"), 8080) }
	for name, spoil := range map[string]func(*AgentInput){
		"no target":            func(in *AgentInput) { in.Target = Workload{} },
		"target without UID":   func(in *AgentInput) { in.Target.UID = "" },
		"no such container":    func(in *AgentInput) { in.Container = "nope" },
		"no session":           func(in *AgentInput) { in.Session = "" },
		"no image":             func(in *AgentInput) { in.Image = "" },
		"no secret":            func(in *AgentInput) { in.KeysSecret = "" },
		"tunnel port zero":     func(in *AgentInput) { in.TunnelPort = 0 },
		"tunnel port is taken": func(in *AgentInput) { in.TunnelPort = 8080 },
	} {
		t.Run(name, func(t *testing.T) {
			in := good()
			spoil(&in)
			if agent, err := Agent(in); err == nil {
				t.Errorf("no error, got deployment %s", agent.Name)
			}
		})
	}
}

func TestKeysSecret(t *testing.T) {
	files := map[string][]byte{"ca.crt": []byte("ca"), "tls.key": []byte("key")}
	in := inputFor(readTarget(t, "simple"))
	secret := KeysSecret(in, files)
	if secret.Name != in.KeysSecret || secret.Namespace != "shop" || string(secret.Data["tls.key"]) != "key" {
		t.Errorf("secret = %+v", secret)
	}
	owner := secret.OwnerReferences
	if len(owner) != 1 || owner[0].UID != in.Target.UID || owner[0].Kind != "Deployment" {
		t.Errorf("owner = %+v", owner)
	}
	if secret.Labels[SessionKey] != in.Session {
		t.Errorf("labels = %v", secret.Labels)
	}
}

func TestAgentName(t *testing.T) {
	long := strings.Repeat("x", 63)
	for _, tc := range []struct{ target, session, want string }{
		{"service-a", "k3f9qz", "service-a-teleswap-k3f9qz"},
		{long, "k3f9qz", strings.Repeat("x", 47) + "-teleswap-k3f9qz"},
		{strings.Repeat("x", 45) + "-.yyyyyyyyy", "k3f9qz", strings.Repeat("x", 45) + "-teleswap-k3f9qz"},
	} {
		got := AgentName(tc.target, tc.session)
		if got != tc.want {
			t.Errorf("AgentName(%q) = %q, want %q", tc.target, got, tc.want)
		}
		if len(got) > 63 {
			t.Errorf("%q has %d characters", got, len(got))
		}
		if back := SessionOf(got); back != tc.session {
			t.Errorf("SessionOf(%q) = %q", got, back)
		}
	}
}

func TestAgentFlags(t *testing.T) {
	got := agentFlags(AgentInput{
		TunnelPort: 15101, Listen: []int32{9090, 80, 9090}, ListenUDP: []int32{53}, Loopback: []int32{8126, 8126}, LoopbackUDP: []int32{8125},
	})
	want := []string{
		"--tunnel-port", "15101", "--listen", "80", "--listen", "9090", "--listen-udp", "53",
		"--listen-loopback", "8126", "--listen-loopback-udp", "8125", "--keys", KeysDir,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestLowPortsOfTheLoopback: the agent is not root, and needs leave for them as for any.
func TestLowPortsOfTheLoopback(t *testing.T) {
	in := inputFor(readTarget(t, "restricted"), 8080)
	in.Loopback = []int32{81}
	d, err := Agent(in)
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(s corev1.Sysctl) bool { return s.Name == unprivilegedPorts && s.Value == "0" }
	if security := d.Spec.Template.Spec.SecurityContext; security == nil || !slices.ContainsFunc(security.Sysctls, allowed) {
		t.Errorf("the pod's security context is %+v, want the sysctl %s", security, unprivilegedPorts)
	}
	in.Loopback = []int32{in.TunnelPort}
	if _, err := Agent(in); err == nil {
		t.Error("the agent's own port is taken for the loopback, too")
	}
}
