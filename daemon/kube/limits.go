package kube

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Limits are what neither the cluster nor a kernel can give to a process that runs elsewhere, as uid: one sentence a kind,
// and only for kinds that the target's pods have. The first is true of every target.
func (t *Target) Limits(uid int) []string { return limitsOf(t.podSpec(), t.Container, uid) }

// ContainerLimits are the Limits of a container of Docker's in the target's place.
func (t *Target) ContainerLimits() []string { return containerLimitsOf(t.podSpec(), t.Container) }

func containerLimitsOf(spec *corev1.PodSpec, container string) []string {
	limits := []string{
		"the container has its own image's files and variables, and the user, rights, memory and CPU that docker's flags give it; the pod's hold for the agent",
	}
	for i := range spec.Containers {
		if c := &spec.Containers[i]; c.Name == container {
			limits = append(limits, namespacesLimit(spec), sysctlsLimit(spec), devicesLimit(c), sharedFilesLimit(spec, c))
		}
	}
	return slices.DeleteFunc(limits, func(line string) bool { return line == "" })
}

func limitsOf(spec *corev1.PodSpec, container string, uid int) []string {
	limits := []string{
		"the process has your laptop's files, kernel, CPU and memory; what the image sets by ENV is in no specification: --env sets it",
	}
	index := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == container })
	if index < 0 {
		return limits
	}
	c := &spec.Containers[index]
	for _, line := range []string{
		identityLimit(spec, c, uid), rightsLimit(spec, c), namespacesLimit(spec), sysctlsLimit(spec), devicesLimit(c), sharedFilesLimit(spec, c),
	} {
		if line != "" {
			limits = append(limits, line)
		}
	}
	return limits
}

// identityLimit tells of users and groups: a user namespace made without privileges has one of each.
func identityLimit(spec *corev1.PodSpec, c *corev1.Container, uid int) string {
	pod, own := spec.SecurityContext, c.SecurityContext
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	var wants []string
	number := func(name string, values ...*int64) {
		for _, v := range values {
			if v != nil {
				wants = append(wants, fmt.Sprintf("%s %d", name, *v))
				return
			}
		}
	}
	if user := first(own.RunAsUser, pod.RunAsUser); user == nil || *user != int64(uid) {
		number("runAsUser", user)
	}
	number("runAsGroup", own.RunAsGroup, pod.RunAsGroup)
	number("fsGroup", pod.FSGroup)
	if len(pod.SupplementalGroups) > 0 {
		wants = append(wants, "supplementalGroups "+strings.Trim(fmt.Sprint(pod.SupplementalGroups), "[]"))
	}
	if nonRoot := first(own.RunAsNonRoot, pod.RunAsNonRoot); uid == 0 && nonRoot != nil && *nonRoot {
		wants = append(wants, "runAsNonRoot")
	}
	if len(wants) == 0 {
		return ""
	}
	return fmt.Sprintf("the process runs as you (uid %d) and owns what it sees of the pod's files; the pod's own user and groups (%s) hold for the agent", uid, strings.Join(wants, ", "))
}

func first[T any](values ...*T) *T {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// rightsLimit tells of what a kernel allows the container beyond, or less than, what it allows a user.
func rightsLimit(spec *corev1.PodSpec, c *corev1.Container) string {
	own := c.SecurityContext
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	var wants []string
	if own.Privileged != nil && *own.Privileged {
		wants = append(wants, "privileged")
	}
	if own.Capabilities != nil {
		for _, capability := range own.Capabilities.Add {
			wants = append(wants, string(capability))
		}
	}
	if own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem {
		wants = append(wants, "readOnlyRootFilesystem")
	}
	if p := seccompOf(spec, own); p != nil && p.Type == corev1.SeccompProfileTypeLocalhost {
		wants = append(wants, "a seccomp profile of the node's")
	}
	if own.SELinuxOptions != nil || spec.SecurityContext != nil && spec.SecurityContext.SELinuxOptions != nil {
		wants = append(wants, "seLinuxOptions")
	}
	if len(wants) == 0 {
		return ""
	}
	return fmt.Sprintf("the process may do what you may, no more and no less: the container's rights (%s) hold for the agent", strings.Join(wants, ", "))
}

func seccompOf(spec *corev1.PodSpec, own *corev1.SecurityContext) *corev1.SeccompProfile {
	if own.SeccompProfile == nil && spec.SecurityContext != nil {
		return spec.SecurityContext.SeccompProfile
	}
	return own.SeccompProfile
}

// namespacesLimit tells of processes and shared memory, which are a kernel's.
func namespacesLimit(spec *corev1.PodSpec) string {
	var wants []string
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		wants = append(wants, "shareProcessNamespace")
	}
	if spec.HostPID {
		wants = append(wants, "hostPID")
	}
	if spec.HostIPC {
		wants = append(wants, "hostIPC")
	}
	if len(wants) == 0 {
		return ""
	}
	return fmt.Sprintf("the pod shares a kernel's processes or memory (%s): the process sees your laptop's instead, and the others do not see it", strings.Join(wants, ", "))
}

func sysctlsLimit(spec *corev1.PodSpec) string {
	if spec.SecurityContext == nil || len(spec.SecurityContext.Sysctls) == 0 {
		return ""
	}
	var names []string
	for _, s := range spec.SecurityContext.Sysctls {
		names = append(names, s.Name)
	}
	return fmt.Sprintf("the pod's sysctls (%s) are not set for the process", strings.Join(names, ", "))
}

// devicesLimit tells of hardware that stays with the node: block volumes, and resources that are things.
func devicesLimit(c *corev1.Container) string {
	var wants []string
	for _, d := range c.VolumeDevices {
		wants = append(wants, d.DevicePath)
	}
	for name := range c.Resources.Limits {
		if strings.Contains(string(name), "/") || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			wants = append(wants, string(name))
		}
	}
	for _, claim := range c.Resources.Claims {
		wants = append(wants, "claim "+claim.Name)
	}
	if len(wants) == 0 {
		return ""
	}
	slices.Sort(wants)
	return fmt.Sprintf("the node's devices (%s) stay on the node: the process has your laptop's", strings.Join(wants, ", "))
}

// sharedFilesLimit tells of volumes that others write to as well: FUSE's protocol carries neither inotify nor locks from afar.
// An emptyDir that no other container mounts is nobody else's.
func sharedFilesLimit(spec *corev1.PodSpec, c *corev1.Container) string {
	var shared []string
	for _, m := range c.VolumeMounts {
		v := volumeOf(spec, m.Name)
		if v == nil { // a StatefulSet's claim: its template does not list it
			shared = append(shared, path.Clean(m.MountPath))
			continue
		}
		_, synced, _ := kindOf(*v)
		switch {
		case synced, v.Image != nil, v.HostPath != nil && noFiles(v.HostPath.Type):
		case v.EmptyDir != nil && !mountedByOthers(spec, c.Name, m.Name):
		default:
			shared = append(shared, path.Clean(m.MountPath))
		}
	}
	if len(shared) == 0 {
		return ""
	}
	slices.Sort(shared)
	return fmt.Sprintf("what others write to %s is read at the next look, but inotify does not tell of it, and locks and unix sockets do not reach across", strings.Join(shared, ", "))
}

// noFiles tells whether a hostPath is a socket or a device. That it cannot be seen is said when it is looked at.
func noFiles(t *corev1.HostPathType) bool {
	return t != nil && slices.Contains([]corev1.HostPathType{corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev}, *t)
}

func volumeOf(spec *corev1.PodSpec, name string) *corev1.VolumeSource {
	for i := range spec.Volumes {
		if spec.Volumes[i].Name == name {
			return &spec.Volumes[i].VolumeSource
		}
	}
	return nil
}

// mountedByOthers tells whether a container that runs beside this one mounts the volume: init containers have ended.
func mountedByOthers(spec *corev1.PodSpec, container, volume string) bool {
	mounts := func(c corev1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume })
	}
	for _, c := range spec.Containers {
		if c.Name != container && mounts(c) {
			return true
		}
	}
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && mounts(c) {
			return true
		}
	}
	return false
}
