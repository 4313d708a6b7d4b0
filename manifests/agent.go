package manifests

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// SessionKey is the label on everything that belongs to a session, its value the
	// session's id. As an annotation of the target it holds the session's mark.
	SessionKey = "teleswap.dev/session"
	// KeysDir is where the agent finds the session's keys.
	KeysDir = "/run/teleswap/keys"

	managedByKey = "app.kubernetes.io/managed-by"
	managedBy    = "teleswap"

	// keysVolume is the name of the volume with the keys, unless the target has one
	// of that name.
	keysVolume = "teleswap-keys"
	// keysMode lets the agent read its keys as whatever user the target's security
	// context makes it run.
	keysMode int32 = 0o444

	// drainSeconds is how long the agent may go on relaying after SIGTERM.
	drainSeconds int64 = 30

	// unprivilegedPorts lets the agent listen below 1024 although it is not root. It
	// is one of Kubernetes' safe sysctls, which the Pod Security Standard
	// "restricted" allows.
	unprivilegedPorts = "net.ipv4.ip_unprivileged_port_start"

	maxName = 63
)

// Workload is a target as the agent's objects need it: who owns them, and what its pods
// are like.
type Workload struct {
	APIVersion, Kind string
	Namespace, Name  string
	UID              types.UID
	// Template is of the target's pods; never changed.
	Template corev1.PodTemplateSpec
}

func (w Workload) String() string { return strings.ToLower(w.Kind) + "/" + w.Name }

// AgentInput is what the agent's objects are made from.
type AgentInput struct {
	Target     Workload
	Container  string            // the container whose place the agent takes
	Session    string            // id
	Name       string            // of the agent's Deployment or Pod
	Image      string            // of the agent; its entrypoint is the agent
	PullPolicy corev1.PullPolicy // empty leaves the choice to Kubernetes
	TunnelPort int32             // the agent's own port
	Listen     []int32           // TCP ports that the agent listens on for the target
	ListenUDP  []int32           // UDP ports likewise
	// Loopback and LoopbackUDP are ports on which the agent listens for the pod's other
	// containers alone, at the pod's loopback address.
	Loopback, LoopbackUDP []int32
	KeysSecret            string // name of the Secret with the keys

	// SkipInit leaves the init containers out that run before the others. Sidecars among
	// them (restartPolicy Always) stay.
	SkipInit bool
	// PodName is the name by which the original's process knows its pod, where that is a
	// lasting name; empty where each pod has a name of its own.
	PodName string
	// Node is where the agent's pod must stand; empty leaves it to the scheduler.
	Node string
	// NoHostPorts leaves ports of the node to the original, which keeps running.
	NoHostPorts bool
	// New says that there is no target: Target is what is made, and its template NewTemplate's.
	New bool
	// Controller keeps controllers that look for pods with the target's labels from
	// taking AgentPod's pod for theirs. Nil: they may.
	Controller *metav1.OwnerReference
}

func (in AgentInput) validate() error {
	switch {
	case in.Target.Name == "":
		return errors.New("agent manifest: no target")
	case in.Target.UID == "" && !in.New:
		return fmt.Errorf("agent manifest: %s has no UID, so it cannot own the agent", in.Target)
	case in.Session == "" || in.Name == "" || in.Image == "" || in.KeysSecret == "":
		return errors.New("agent manifest: session, name, image and secret must be given")
	case in.TunnelPort < 1 || in.TunnelPort > 65535:
		return fmt.Errorf("agent manifest: tunnel port %d is none", in.TunnelPort)
	case slices.Contains(slices.Concat(in.Listen, in.Loopback), in.TunnelPort):
		return fmt.Errorf("agent manifest: the tunnel port %d is one of the target's", in.TunnelPort)
	}
	return nil
}

// AgentName is the name of the agent's Deployment and Secret:
// TARGET-teleswap-SESSION, the target's part shortened to fit into 63 characters.
func AgentName(target, session string) string {
	suffix := "-teleswap-" + session
	if room := maxName - len(suffix); len(target) > room {
		target = strings.TrimRight(target[:max(room, 0)], "-.")
	}
	return target + suffix
}

// Agent is the agent's Deployment: the target's pod template with the agent in the
// place of one container. All else of the pod is as it was (labels, ServiceAccount,
// volumes, sidecars, security, placement), so that Services, NetworkPolicies and disruption
// budgets hold for it as for the target.
//
// Of the target itself nothing is copied: its labels and annotations tell
// GitOps tools and Helm what belongs to them, and the agent does not.
func Agent(in AgentInput) (*appsv1.Deployment, error) {
	template, err := in.template()
	if err != nil {
		return nil, err
	}
	replicas, history := int32(1), int32(0)
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: in.objectMeta(in.Name),
		Spec: appsv1.DeploymentSpec{
			Replicas:             &replicas,
			RevisionHistoryLimit: &history,
			Selector:             &metav1.LabelSelector{MatchLabels: map[string]string{SessionKey: in.Session}},
			Strategy:             appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Template:             *template,
		},
	}, nil
}

// AgentPod is the agent as a Pod of its own, for targets whose pods are not to be made
// again when they end: a Pod, a Job's, a CronJob's, and for those of a DaemonSet, whose
// controller counts pods.
func AgentPod(in AgentInput) (*corev1.Pod, error) {
	template, err := in.template()
	if err != nil {
		return nil, err
	}
	meta := in.objectMeta(in.Name)
	meta.Labels = template.Labels
	meta.Annotations = template.Annotations
	if in.Controller != nil {
		meta.OwnerReferences = append(meta.OwnerReferences, *in.Controller)
	}
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: meta,
		Spec:       template.Spec,
	}, nil
}

// template is the target's with the agent in it.
func (in AgentInput) template() (*corev1.PodTemplateSpec, error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	template := in.Target.Template.DeepCopy()
	spec := &template.Spec
	index := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == in.Container })
	if index < 0 {
		return nil, fmt.Errorf("agent manifest: %s has no container %q", in.Target, in.Container)
	}
	template.ObjectMeta = metav1.ObjectMeta{
		Labels:      withLabel(template.Labels, SessionKey, in.Session),
		Annotations: template.Annotations,
	}
	volume := addKeys(spec, in.KeysSecret)
	replaceContainer(&spec.Containers[index], in, volume)
	allowLowPorts(spec, slices.Concat(in.Listen, in.ListenUDP, in.Loopback, in.LoopbackUDP))
	lengthenGrace(spec)
	// The target's deadline is for its own work, not for a debugger.
	spec.ActiveDeadlineSeconds = nil
	if in.SkipInit {
		spec.InitContainers = slices.DeleteFunc(spec.InitContainers, func(c corev1.Container) bool { return !isSidecar(c) })
	}
	if in.NoHostPorts {
		dropHostPorts(spec)
	}
	if in.PodName != "" {
		fixPodName(&spec.Containers[index], in.PodName)
	}
	if in.Node != "" {
		pinTo(spec, in.Node)
	}
	return template, nil
}

// isSidecar reports an init container that lives as long as the pod.
func isSidecar(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func dropHostPorts(spec *corev1.PodSpec) {
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			for j := range containers[i].Ports {
				containers[i].Ports[j].HostPort, containers[i].Ports[j].HostIP = 0, ""
			}
		}
	}
}

// fixPodName gives the process the name that the original's pod has where it asks for
// its own: the agent's pod must be called otherwise.
func fixPodName(c *corev1.Container, name string) {
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from != nil && from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.name" {
			c.Env[i].Value, c.Env[i].ValueFrom = name, nil
		}
	}
}

// pinTo adds to whatever placement there is that the pod must stand on one node, in the
// way in which the DaemonSet controller does.
func pinTo(spec *corev1.PodSpec, node string) {
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	only := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	required := spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{only}}},
		}
		return
	}
	// One of the terms must hold, so each gets it.
	for i := range required.NodeSelectorTerms {
		fields := &required.NodeSelectorTerms[i].MatchFields
		*fields = slices.DeleteFunc(*fields, func(r corev1.NodeSelectorRequirement) bool { return r.Key == metav1.ObjectNameField })
		*fields = append(*fields, only)
	}
}

// KeysSecret is the Secret named in.KeysSecret that holds files by name. It belongs
// to the target as the agent does.
func KeysSecret(in AgentInput, files map[string][]byte) *corev1.Secret {
	immutable := true
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: in.objectMeta(in.KeysSecret),
		Immutable:  &immutable,
		Type:       corev1.SecretTypeOpaque,
		Data:       maps.Clone(files),
	}
}

// objectMeta is common to our objects. The owner is the target, so that they go when
// it goes; it is not the controller, and does not ask to block the owner's deletion,
// which would need a permission on the owner's finalizers. A target that is not made yet owns nothing.
func (in AgentInput) objectMeta(name string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{
		Name:      name,
		Namespace: in.Target.Namespace,
		Labels:    map[string]string{SessionKey: in.Session, managedByKey: managedBy},
	}
	if in.Target.UID != "" {
		meta.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: in.Target.APIVersion,
			Kind:       in.Target.Kind,
			Name:       in.Target.Name,
			UID:        in.Target.UID,
		}}
	}
	return meta
}

// replaceContainer puts the agent into the container. What the process would have
// seen stays (environment, mounts, resources, security context, ports); what told the
// runtime how to run and probe the original's program goes.
func replaceContainer(c *corev1.Container, in AgentInput, keys string) {
	c.Image = in.Image
	c.ImagePullPolicy = in.PullPolicy
	c.Command = nil
	c.Args = agentFlags(in)
	c.WorkingDir = ""
	c.Stdin, c.StdinOnce, c.TTY = false, false, false
	c.Lifecycle = nil
	c.LivenessProbe = nil
	c.StartupProbe = nil
	// The agent holds the probe's request until the local process listens, so the pod
	// becomes Ready at that moment and not a period later.
	c.ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path:   "/readyz",
			Port:   intstr.FromInt32(in.TunnelPort),
			Scheme: corev1.URISchemeHTTP,
		}},
		TimeoutSeconds:   10,
		PeriodSeconds:    1,
		SuccessThreshold: 1,
		FailureThreshold: 1,
	}
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: keys, MountPath: KeysDir, ReadOnly: true})
}

func agentFlags(in AgentInput) []string {
	flags := []string{"--tunnel-port", strconv.Itoa(int(in.TunnelPort))}
	for _, f := range []struct {
		flag  string
		ports []int32
	}{
		{"--listen", in.Listen},
		{"--listen-udp", in.ListenUDP},
		{"--listen-loopback", in.Loopback},
		{"--listen-loopback-udp", in.LoopbackUDP},
	} {
		for _, port := range slices.Compact(slices.Sorted(slices.Values(f.ports))) {
			flags = append(flags, f.flag, strconv.Itoa(int(port)))
		}
	}
	return append(flags, "--keys", KeysDir)
}

// addKeys adds the volume with the keys and returns its name.
func addKeys(spec *corev1.PodSpec, secret string) string {
	name := keysVolume
	for n := 2; slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == name }); n++ {
		name = keysVolume + "-" + strconv.Itoa(n)
	}
	mode := keysMode
	spec.Volumes = append(spec.Volumes, corev1.Volume{
		Name: name,
		VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: secret, DefaultMode: &mode},
		},
	})
	return name
}

// allowLowPorts makes ports below 1024 fit for an agent that is not root, as the
// target's own image may be.
func allowLowPorts(spec *corev1.PodSpec, ports []int32) {
	if len(ports) == 0 || slices.Min(ports) >= 1024 {
		return
	}
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	if slices.ContainsFunc(spec.SecurityContext.Sysctls, func(s corev1.Sysctl) bool { return s.Name == unprivilegedPorts }) {
		return
	}
	spec.SecurityContext.Sysctls = append(spec.SecurityContext.Sysctls, corev1.Sysctl{Name: unprivilegedPorts, Value: "0"})
}

// lengthenGrace gives the agent time to drain. A target that asked for more (for a
// sidecar, say) keeps it.
func lengthenGrace(spec *corev1.PodSpec) {
	if spec.TerminationGracePeriodSeconds == nil || *spec.TerminationGracePeriodSeconds < drainSeconds {
		grace := drainSeconds
		spec.TerminationGracePeriodSeconds = &grace
	}
}

func withLabel(labels map[string]string, key, value string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = make(map[string]string, 1)
	}
	out[key] = value
	return out
}

// SessionOf is the session's id in a name made by AgentName.
func SessionOf(agentName string) string {
	return agentName[strings.LastIndexByte(agentName, '-')+1:]
}
