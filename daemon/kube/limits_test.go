package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// always is what holds for every target.
const always = "the process has your laptop's files, kernel, CPU and memory; what the image sets by ENV is in no specification: --env sets it"

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		uid        int
		want       []string // beyond always
	}{
		{"plain", `containers: [{name: app, image: x, resources: {limits: {cpu: 1, memory: 64Mi}}}]`, 1000, nil},
		{
			"what restricted asks for",
			`
securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
containers: [{name: app, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]`, 1000, nil,
		},
		{
			"not root, swapped by root",
			`{securityContext: {runAsNonRoot: true}, containers: [{name: app}]}`, 0,
			[]string{"the process runs as you (uid 0) and owns what it sees of the pod's files; the pod's own user and groups (runAsNonRoot) hold for the agent"},
		},
		{
			"the user's own uid",
			`{securityContext: {runAsUser: 1}, containers: [{name: app, securityContext: {runAsUser: 1000}}]}`, 1000, nil,
		},
		{
			"users and groups",
			`{securityContext: {runAsUser: 7, fsGroup: 8, supplementalGroups: [9, 10]}, containers: [{name: app, securityContext: {runAsGroup: 11}}]}`, 1000,
			[]string{
				"the process runs as you (uid 1000) and owns what it sees of the pod's files; " +
					"the pod's own user and groups (runAsUser 7, runAsGroup 11, fsGroup 8, supplementalGroups 9 10) hold for the agent",
			},
		},
		{
			"rights",
			`
containers:
- {name: other, securityContext: {privileged: true}}
- {name: app, securityContext: {capabilities: {add: [NET_RAW]}, readOnlyRootFilesystem: true, seccompProfile: {type: Localhost, localhostProfile: x}, seLinuxOptions: {type: x}}}`,
			1000,
			[]string{
				"the process may do what you may, no more and no less: " +
					"the container's rights (NET_RAW, readOnlyRootFilesystem, a seccomp profile of the node's, seLinuxOptions) hold for the agent",
			},
		},
		{
			"privileged",
			`containers: [{name: app, securityContext: {privileged: true}}]`, 0,
			[]string{"the process may do what you may, no more and no less: the container's rights (privileged) hold for the agent"},
		},
		{
			"a kernel's things",
			`{shareProcessNamespace: true, hostPID: true, hostIPC: true, securityContext: {sysctls: [{name: a.b, value: "1"}, {name: c, value: "2"}]}, containers: [{name: app}]}`, 1000,
			[]string{
				"the pod shares a kernel's processes or memory (shareProcessNamespace, hostPID, hostIPC): the process sees your laptop's instead, and the others do not see it",
				"the pod's sysctls (a.b, c) are not set for the process",
			},
		},
		{
			"devices",
			`
containers:
- name: app
  volumeDevices: [{name: raw, devicePath: /dev/xvda}]
  resources: {limits: {nvidia.com/gpu: 1, hugepages-2Mi: 4Mi, cpu: 1}, claims: [{name: card}]}`, 1000,
			[]string{"the node's devices (/dev/xvda, claim card, hugepages-2Mi, nvidia.com/gpu) stay on the node: the process has your laptop's"},
		},
		{
			"files that are its own, or a copy",
			`
volumes: [{name: own, emptyDir: {}}, {name: conf, configMap: {name: x}}, {name: socket, hostPath: {path: /x, type: Socket}}]
initContainers: [{name: first, volumeMounts: [{name: own, mountPath: /own}]}]
containers:
- {name: app, volumeMounts: [{name: own, mountPath: /tmp}, {name: conf, mountPath: /conf}, {name: socket, mountPath: /socket}]}
- {name: other, volumeMounts: [{name: conf, mountPath: /conf}]}`, 1000, nil,
		},
		{
			"files that others write to",
			`
volumes: [{name: shared, emptyDir: {}}, {name: pulled, emptyDir: {}}, {name: claim, persistentVolumeClaim: {claimName: x}}, {name: host, hostPath: {path: /x}}]
initContainers: [{name: puller, restartPolicy: Always, volumeMounts: [{name: pulled, mountPath: /x}]}]
containers:
- name: app
  volumeMounts: [{name: shared, mountPath: /shared/}, {name: pulled, mountPath: /pulled}, {name: claim, mountPath: /claim}, {name: host, mountPath: /host}, {name: template, mountPath: /data}]
- {name: other, volumeMounts: [{name: shared, mountPath: /x}]}`, 1000,
			[]string{
				"what others write to /claim, /data, /host, /pulled, /shared is read at the next look, but inotify does not tell of it, " +
					"and locks and unix sockets do not reach across",
			},
		},
		{"no such container", `containers: [{name: other, securityContext: {privileged: true}}]`, 1000, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var spec corev1.PodSpec
			if err := yaml.UnmarshalStrict([]byte(c.spec), &spec); err != nil {
				t.Fatal(err)
			}
			want := append([]string{always}, c.want...)
			if got := limitsOf(&spec, "app", c.uid); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestContainerLimits leaves away what docker's flags are for.
func TestContainerLimits(t *testing.T) {
	yes, user := true, int64(1000)
	spec := &corev1.PodSpec{
		ShareProcessNamespace: &yes,
		Containers: []corev1.Container{{
			Name: "app", SecurityContext: &corev1.SecurityContext{Privileged: &yes, RunAsUser: &user},
		}},
	}
	got := containerLimitsOf(spec, "app")
	if len(got) != 2 || !strings.Contains(got[0], "docker's flags") || !strings.Contains(got[1], "shareProcessNamespace") {
		t.Errorf("got %q", got)
	}
}
