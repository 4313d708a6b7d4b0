package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/teleswap/teleswap/manifests"
)

const (
	// LeftOut stands where a value was taken out.
	LeftOut = "(left-out)"
	// logLimit is what is read of an agent's log: its end.
	logLimit = 1 << 20
	// ourAnnotations begin so; they hold no secret.
	ourAnnotations = "teleswap.dev/"
)

// Evidence is a text that tells how something of ours stands in a namespace.
type Evidence struct {
	Name string // of a file: "pod-web-teleswap-abc123.yaml"
	Data []byte
}

// Gather reads everything in the namespace that bears a session's label, the events about it and the agents' own logs, for a bug report.
// No value of a variable is in it, no argument of a container that is not the agent, no annotation's value that is not ours, and
// Secrets are not even read. hidden are the values of variables with telling names, which may be in other texts, too. What cannot be read is
// in the error; the rest is returned all the same.
func (c *Cluster) Gather(ctx context.Context) (found []Evidence, hidden []string, err error) {
	ours := metav1.ListOptions{LabelSelector: manifests.SessionKey}
	g := &gathering{cluster: c, names: map[string]bool{}}
	g.list(ctx, "pods", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Pods(c.namespace).List(ctx, ours)
		if err != nil {
			return err
		}
		for i := range list.Items {
			pod := &list.Items[i]
			agents := agentContainers(&pod.Spec)
			g.hideMeta(&pod.ObjectMeta)
			g.hidePod(&pod.Spec)
			pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
			g.add("pod", pod.Name, pod)
			for _, name := range agents {
				g.log(ctx, pod.Name, name)
			}
		}
		return nil
	})
	g.list(ctx, "deployments", func(ctx context.Context) error {
		list, err := c.client.AppsV1().Deployments(c.namespace).List(ctx, ours)
		if err != nil {
			return err
		}
		for i := range list.Items {
			d := &list.Items[i]
			g.hideTemplate(&d.ObjectMeta, &d.Spec.Template)
			d.TypeMeta = metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"}
			g.add("deployment", d.Name, d)
		}
		return nil
	})
	g.list(ctx, "jobs", func(ctx context.Context) error {
		list, err := c.client.BatchV1().Jobs(c.namespace).List(ctx, ours)
		if err != nil {
			return err
		}
		for i := range list.Items {
			j := &list.Items[i]
			g.hideTemplate(&j.ObjectMeta, &j.Spec.Template)
			j.TypeMeta = metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"}
			g.add("job", j.Name, j)
		}
		return nil
	})
	g.list(ctx, "services", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Services(c.namespace).List(ctx, ours)
		if err != nil {
			return err
		}
		for i := range list.Items {
			s := &list.Items[i]
			g.hideMeta(&s.ObjectMeta)
			s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
			g.add("service", s.Name, s)
		}
		return nil
	})
	g.list(ctx, "events", g.events)
	slices.SortFunc(g.found, func(a, b Evidence) int { return strings.Compare(a.Name, b.Name) })
	return g.found, g.hidden, errors.Join(g.errs...)
}

// gathering is one run of Gather.
type gathering struct {
	cluster *Cluster
	found   []Evidence
	names   map[string]bool // of the objects found
	hidden  []string
	errs    []error
}

func (g *gathering) list(ctx context.Context, what string, do func(context.Context) error) {
	if err := g.cluster.once(ctx, do); err != nil {
		g.errs = append(g.errs, fmt.Errorf("%s in namespace %s: %w", what, g.cluster.namespace, g.cluster.explain("list "+what, err)))
	}
}

func (g *gathering) add(kind, name string, o runtime.Object) {
	data, err := yaml.Marshal(o)
	if err != nil {
		g.errs = append(g.errs, fmt.Errorf("write %s/%s: %w", kind, name, err))
		return
	}
	g.names[name] = true
	g.found = append(g.found, Evidence{kind + "-" + name + ".yaml", data})
}

// events are those about the objects that were found, one a line.
func (g *gathering) events(ctx context.Context) error {
	list, err := g.cluster.client.CoreV1().Events(g.cluster.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var text bytes.Buffer
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	for _, e := range list.Items {
		if name := e.InvolvedObject.Name; g.names[name] || strings.Contains(name, "teleswap") {
			fmt.Fprintf(&text, "%s %s %s %s/%s: %s (%d times)\n", e.LastTimestamp.UTC().Format("2006-01-02T15:04:05Z"), e.Type, e.Reason,
				strings.ToLower(e.InvolvedObject.Kind), name, strings.ReplaceAll(e.Message, "\n", " "), max(e.Count, 1))
		}
	}
	g.found = append(g.found, Evidence{"events.txt", text.Bytes()})
	return nil
}

// ownLine is what the agent's own lines look like; all else in its log is a copy of what the local process has written.
var ownLine = regexp.MustCompile(`^time=\S+ level=[A-Z]+(\+\d+)? msg=`)

// log adds the agent's own lines of its log.
func (g *gathering) log(ctx context.Context, pod, container string) {
	limit := int64(logLimit)
	lines := int64(20000)
	fail := func(err error) {
		g.errs = append(g.errs, fmt.Errorf("log of pod %s: %w", pod, g.cluster.explain("read the log of "+pod, err)))
	}
	stream, err := g.cluster.client.CoreV1().Pods(g.cluster.namespace).GetLogs(pod, &corev1.PodLogOptions{
		Container: container, LimitBytes: &limit, TailLines: &lines,
	}).Stream(ctx)
	if err != nil {
		fail(err)
		return
	}
	data, err := io.ReadAll(stream)
	if err := errors.Join(err, stream.Close()); err != nil {
		fail(err)
		return
	}
	g.found = append(g.found, Evidence{"log-" + pod + ".txt", ownLines(data)})
}

// ownLines are the agent's own lines of a log; how many others there were is said.
func ownLines(log []byte) []byte {
	var out bytes.Buffer
	others := 0
	for line := range bytes.Lines(log) {
		if ownLine.Match(line) {
			out.Write(line)
		} else {
			others++
		}
	}
	fmt.Fprintf(&out, "(%d lines of the local process are left out)\n", others)
	return out.Bytes()
}

// agentContainers are the containers in which our agent runs.
func agentContainers(spec *corev1.PodSpec) []string {
	var names []string
	for _, c := range spec.Containers {
		if isAgentContainer(&c) {
			names = append(names, c.Name)
		}
	}
	return names
}

func isAgentContainer(c *corev1.Container) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == manifests.KeysDir })
}

func (g *gathering) hideTemplate(meta *metav1.ObjectMeta, t *corev1.PodTemplateSpec) {
	g.hideMeta(meta)
	g.hideMeta(&t.ObjectMeta)
	g.hidePod(&t.Spec)
}

// hideMeta takes the values of annotations out: kubectl keeps whole objects in them, and injectors secrets.
func (g *gathering) hideMeta(meta *metav1.ObjectMeta) {
	meta.ManagedFields = nil
	for key := range meta.Annotations {
		if !strings.HasPrefix(key, ourAnnotations) {
			meta.Annotations[key] = LeftOut
		}
	}
}

func (g *gathering) hidePod(spec *corev1.PodSpec) {
	for _, all := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range all {
			g.hideContainer(&all[i])
		}
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		g.hideContainer(&c)
		spec.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	for i := range spec.Volumes {
		if csi := spec.Volumes[i].CSI; csi != nil {
			hideValues(csi.VolumeAttributes)
		}
		if flex := spec.Volumes[i].FlexVolume; flex != nil {
			hideValues(flex.Options)
		}
	}
}

func (g *gathering) hideContainer(c *corev1.Container) {
	for i, e := range c.Env {
		if e.Value == "" {
			continue
		}
		if TellingName(e.Name) {
			g.hidden = append(g.hidden, e.Value)
		}
		c.Env[i].Value = LeftOut
	}
	if isAgentContainer(c) {
		return // the rest is ours
	}
	c.Command, c.Args = hideAll(c.Command), hideAll(c.Args)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			hideAction(p.Exec, p.HTTPGet)
		}
	}
	if c.Lifecycle == nil {
		return
	}
	for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if h != nil {
			hideAction(h.Exec, h.HTTPGet)
		}
	}
}

// hideAction takes out what a probe or a hook may have of secrets.
func hideAction(exec *corev1.ExecAction, get *corev1.HTTPGetAction) {
	if exec != nil {
		exec.Command = hideAll(exec.Command)
	}
	if get != nil {
		get.Path = LeftOut
		for i := range get.HTTPHeaders {
			get.HTTPHeaders[i].Value = LeftOut
		}
	}
}

func hideAll(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("(%d words left out)", len(words))}
}

func hideValues(m map[string]string) {
	for key := range m {
		m[key] = LeftOut
	}
}

// tellingName is what names of variables have in them whose values are secrets.
var tellingName = regexp.MustCompile(`(?i)pass(word|wd|phrase|code)?|pwd$|secret|token|credential|api_?key|access_?key|private|signing|auth|cookie|session_?key|salt|dsn|conn(ection)?_?str|_url$|_uri$|_key$|^key$`)

// TellingName says whether a variable's name tells that its value is a secret, or has one in it.
func TellingName(name string) bool { return tellingName.MatchString(name) }

// Secrets are the credentials that the connection has, in all the ways in which they may be written: those of every user of the
// kubeconfig and of the flags, and the values of the environment's variables with telling names. What cannot be read has none.
func (c Connection) Secrets() []string {
	secrets := []string{c.Token, c.Password}
	for _, entry := range c.Environ {
		if name, value, found := strings.Cut(entry, "="); found && TellingName(name) {
			secrets = append(secrets, value)
		}
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig, Precedence: c.KubeconfigList}
	raw, err := rules.Load()
	if err != nil {
		return secrets
	}
	for _, auth := range raw.AuthInfos {
		secrets = append(secrets, auth.Token, auth.Password)
		if data, err := os.ReadFile(auth.TokenFile); err == nil {
			secrets = append(secrets, string(data))
		}
		for _, data := range [][]byte{auth.ClientKeyData, auth.ClientCertificateData} {
			secrets = append(secrets, string(data), base64.StdEncoding.EncodeToString(data))
		}
		if auth.AuthProvider != nil {
			for key, value := range auth.AuthProvider.Config {
				if TellingName(key) {
					secrets = append(secrets, value)
				}
			}
		}
		if auth.Exec == nil {
			continue
		}
		for _, e := range auth.Exec.Env {
			if TellingName(e.Name) {
				secrets = append(secrets, e.Value)
			}
		}
	}
	return secrets
}
