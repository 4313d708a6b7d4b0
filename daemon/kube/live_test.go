package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"
)

// The tests in this file need a cluster and skip without one. TELESWAP_TEST_KUBECONFIG
// names an administrator's kubeconfig. TELESWAP_TEST_IMAGE is an image in the cluster
// that listens on --listen ports, and on --tunnel-port answers /readyz and echoes after
// an upgrade.

// live is a namespace of its own on a real cluster.
type live struct {
	admin     kubernetes.Interface
	config    string // the administrator's kubeconfig
	namespace string
	image     string
}

func startLive(t *testing.T) *live {
	t.Helper()
	file, image := os.Getenv("TELESWAP_TEST_KUBECONFIG"), os.Getenv("TELESWAP_TEST_IMAGE")
	if file == "" || image == "" {
		t.Skip("needs a cluster: set TELESWAP_TEST_KUBECONFIG and TELESWAP_TEST_IMAGE")
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(client.Transport) })
	admin, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{admin: admin, config: file, image: image, namespace: fmt.Sprintf("kube-live-%08x", rand.Uint32())}
	_, err = admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := admin.CoreV1().Namespaces().Delete(ctx, l.namespace, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return l
}

// user makes a ServiceAccount bound to a ClusterRole in the namespace and connects as
// it. An empty role is none.
func (l *live) user(t *testing.T, name, role string) *Cluster {
	t.Helper()
	ctx := t.Context()
	accounts := l.admin.CoreV1().ServiceAccounts(l.namespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if role != "" {
		_, err := l.admin.RbacV1().RoleBindings(l.namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: l.namespace}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{name: {Token: token.Status.Token}}
	for _, c := range config.Contexts {
		c.AuthInfo, c.Namespace = name, l.namespace
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(Connection{Kubeconfig: file}, Config{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, c)
	return c
}

// deploy makes a Deployment and its Service, and waits until it is available.
func (l *live) deploy(t *testing.T, name string, replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	t.Helper()
	labels := map[string]string{"app": name}
	grace := int64(2)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &grace,
					Containers: []corev1.Container{{
						Name: "app", Image: l.image, ImagePullPolicy: corev1.PullNever, Args: []string{"--listen", "8080"},
						Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
					}},
				},
			},
		},
	}
	for _, f := range change {
		f(d)
	}
	ctx := t.Context()
	made, err := l.admin.AppsV1().Deployments(l.namespace).Create(ctx, d, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.admin.CoreV1().Services(l.namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// snapshot is what kubectl get -o yaml would show of the namespace, without what
// changes by itself.
func (l *live) snapshot(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	show := func(v any) {
		text, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
		out.WriteString("---\n")
	}
	ctx := t.Context()
	deployments, err := l.admin.AppsV1().Deployments(l.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deployments.Items {
		d.ManagedFields, d.ResourceVersion, d.Generation, d.Status = nil, "", 0, appsv1.DeploymentStatus{}
		show(d)
	}
	sets, err := l.admin.AppsV1().ReplicaSets(l.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sets.Items {
		s.ManagedFields, s.ResourceVersion, s.Generation, s.Status = nil, "", 0, appsv1.ReplicaSetStatus{}
		show(s)
	}
	secrets, err := l.admin.CoreV1().Secrets(l.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets.Items {
		show(s.Name)
	}
	return out.String()
}

// lap logs what each step took.
func lap(t *testing.T) func(step string) {
	last := time.Now()
	return func(step string) {
		t.Logf("%-12s %s", step, time.Since(last).Round(time.Millisecond))
		last = time.Now()
	}
}

// TestLiveSwap does every call of a swap and of its restore as a user bound to `edit`,
// and looks for what is left.
func TestLiveSwap(t *testing.T) {
	l := startLive(t)
	c := l.user(t, "dev", "edit")
	l.deploy(t, "web", 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := l.connectAdmin(t).WaitAvailable(ctx, Object{Name: "web"}, 2, nil); err != nil {
		t.Fatal(err)
	}
	before := l.snapshot(t)
	step := lap(t)
	must := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		step(name)
	}
	note := func(line string) { t.Log("  …", line) }

	must("access", c.CheckAccess(ctx, ""))
	target, err := c.Resolve(ctx, Ref{Name: "web"})
	must("resolve", err)
	if !slices.Equal(target.Listen, []int32{8080}) || !slices.Equal(target.Need, []int32{8080}) || !slices.Equal(target.Services, []string{"web"}) {
		t.Errorf("target = %+v", target)
	}
	cidrs, err := c.ServiceCIDRs(ctx)
	must("cidrs", err)
	if len(cidrs) == 0 || cidrs[0].IsSingleIP() {
		t.Errorf("service ranges = %v", cidrs)
	}
	agent := Agent{Session: "k3f9qz", Name: AgentName("web", "k3f9qz"), Image: l.image, PullPolicy: "Never", Keys: map[string][]byte{"ca.crt": []byte("x")}}
	mark, err := c.Mark(ctx, target, Mark{ID: agent.Session, User: "jane", Host: "laptop", Since: time.Now(), Agent: agent.Name})
	must("mark", err)
	if mark.Replicas != 2 {
		t.Errorf("mark = %+v", mark)
	}
	must("secret", c.CreateSecret(ctx, target, agent))
	must("agent", c.CreateAgent(ctx, target, agent))
	pod, err := c.WaitAgentRunning(ctx, agent.Name, note)
	must("running", err)
	l.checkDials(t, c, pod, target.TunnelPort)
	step("dials")
	ready, err := c.WaitAgentReady(ctx, agent.Name, note)
	must("ready", err)
	if !reflect.DeepEqual(ready, pod) {
		t.Errorf("ready pod %+v is not the running one %+v", ready, pod)
	}
	must("endpoints", c.WaitEndpoints(ctx, target.Services, pod))
	must("down", c.Shift(ctx, mark.Shift(target.Object()), agent.Name))
	l.checkHeld(t, c, mark)
	step("checks")

	_, err = c.Unshift(ctx, mark.Shift(target.Object()), agent.Name)
	must("up", err)
	addrs, err := c.WaitAvailable(ctx, Object{Name: "web"}, mark.Replicas, note)
	must("available", err)
	if len(addrs) != 2 || slices.Contains(addrs, pod.IP) {
		t.Errorf("ready addresses = %v, the agent's is %v", addrs, pod.IP)
	}
	for range 2 { // undo twice is fine
		must("delete", c.DeleteAgent(ctx, agent.Name, note))
		must("secret", c.DeleteSecret(ctx, agent.Name))
		must("unmark", c.Unmark(ctx, Object{Name: "web"}, agent.Session))
	}
	if after := l.snapshot(t); after != before {
		t.Errorf("the namespace is not as it was:\n--- before\n%s--- after\n%s", before, after)
	}
}

func (l *live) connectAdmin(t *testing.T) *Cluster {
	t.Helper()
	c, err := Connect(Connection{Kubeconfig: l.config, Namespace: l.namespace}, Config{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, c)
	return c
}

// checkHeld looks at a target that is swapped.
func (l *live) checkHeld(t *testing.T, c *Cluster, mark Mark) {
	t.Helper()
	var swapped *AlreadySwappedError
	if _, err := c.Resolve(t.Context(), Ref{Name: "web"}); !errors.As(err, &swapped) || swapped.Mark.ID != mark.ID {
		t.Errorf("resolve of a swapped target: %v", err)
	} else {
		t.Log(err)
	}
	held, err := c.ReadMark(t.Context(), Object{Name: "web"})
	if err != nil || held == nil || held.ID != mark.ID {
		t.Errorf("mark = %+v, %v", held, err)
	}
	marked, err := c.ListMarked(t.Context(), false)
	if err != nil || len(marked) != 1 || marked[0].Name != "web" {
		t.Errorf("marked = %+v, %v", marked, err)
	}
	targets, err := c.Targets(t.Context())
	if err != nil || len(targets) != 1 || targets[0].Mark == nil {
		t.Errorf("targets = %+v, %v", targets, err)
	}
	if err := c.Unmark(t.Context(), Object{Name: "web"}, "another"); err != nil {
		t.Error(err)
	}
	if held, err := c.ReadMark(t.Context(), Object{Name: "web"}); err != nil || held == nil {
		t.Errorf("another session's unmark took the mark: %v, %v", held, err)
	}
}

// checkDials sends a MiB to the pod and back in each of the ways.
func (l *live) checkDials(t *testing.T, c *Cluster, pod AgentPod, port int32) {
	t.Helper()
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, way := range []string{"pod-proxy", PortForwardWebSocket, PortForwardSPDY} {
		start := time.Now()
		conn, err := l.dial(t, c, pod, port, way)
		if err != nil {
			t.Errorf("%s: %v", way, err)
			continue
		}
		dialled := time.Since(start)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := conn.Write(payload); err != nil {
				t.Errorf("%s: %v", way, err)
			}
		})
		back := make([]byte, len(payload))
		if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(back, payload) {
			t.Errorf("%s: %v; what came back differs", way, err)
		}
		wg.Wait()
		t.Logf("  %s: dialled in %s, 1 MiB there and back in %s", way, dialled.Round(100*time.Microsecond), (time.Since(start) - dialled).Round(time.Millisecond))
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(back); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: deadline: %v", way, err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("%s: close: %v", way, err)
		}
	}
	conn, err := c.DialPortForward(t.Context(), pod.Namespace, pod.Name, 9, PortForwardSPDY)
	if err == nil {
		if _, err = conn.Read(make([]byte, 1)); err == nil {
			t.Error("read from a closed port")
		}
		closeOf(t, conn)
	}
	t.Log("  port-forward to a closed port:", err)
	_, err = c.DialPodProxy(t.Context(), pod.Namespace, pod.Name, 9)
	t.Log("  pod-proxy to a closed port:", err)
	if err == nil {
		t.Error("pod-proxy dialled a closed port")
	}
}

// dial opens a connection after which the pod echoes.
func (l *live) dial(t *testing.T, c *Cluster, pod AgentPod, port int32, way string) (net.Conn, error) {
	t.Helper()
	if way == "pod-proxy" {
		return c.DialPodProxy(t.Context(), pod.Namespace, pod.Name, port)
	}
	conn, err := c.DialPortForward(t.Context(), pod.Namespace, pod.Name, port, way)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: teleswap\r\n\r\n"); err != nil {
		return nil, err
	}
	for seen := ""; !strings.HasSuffix(seen, "\r\n\r\n"); {
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil {
			return nil, fmt.Errorf("after %q: %w", seen, err)
		}
		seen += string(one)
	}
	return conn, nil
}

// TestLiveStuck waits for pods that cannot come up.
func TestLiveStuck(t *testing.T) {
	l := startLive(t)
	c := l.user(t, "dev", "edit")
	l.deploy(t, "web", 1)
	missingConfig := func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "nope"}}}}
	}
	l.deploy(t, "config", 1, missingConfig)
	l.deploy(t, "picky", 1, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "none"}
	})
	for _, tc := range []struct {
		name, target, image, policy string
		reasons                     []string
		wants                       []string
	}{
		{"image", "web", "registry.invalid/nope:1", "IfNotPresent", []string{"ErrImagePull", "ImagePullBackOff"}, []string{"Failed to pull image", "registry.invalid/nope:1", "--agent-image"}},
		{"never", "web", "registry.invalid/nope:1", "Never", []string{"ErrImageNeverPull"}, []string{"registry.invalid/nope:1", "--agent-image"}},
		{"name", "web", "Not:A:Name", "", []string{"InvalidImageName"}, []string{"Not:A:Name"}},
		{"config", "config", l.image, "Never", []string{"CreateContainerConfigError"}, []string{`configmap "nope" not found`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			start := time.Now()
			_, err := l.standUp(ctx, t, c, tc.target, tc.name, tc.image, tc.policy)
			var stuck *PodStuckError
			if !errors.As(err, &stuck) || !slices.Contains(tc.reasons, stuck.Reason) {
				t.Fatalf("error is %v", err)
			}
			t.Logf("after %s: %v", time.Since(start).Round(time.Millisecond), err)
			for _, want := range tc.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("misses %q", want)
				}
			}
		})
	}
	t.Run("no node", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		notes, err := l.standUp(ctx, t, c, "picky", "nonode", l.image, "Never")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waits for a node") || len(notes) == 0 {
			t.Errorf("got %v, notes %q", err, notes)
		}
		t.Log(err)
	})
}

// TestLiveRefused is about pods that admission does not let in.
func TestLiveRefused(t *testing.T) {
	l := startLive(t)
	c := l.user(t, "dev", "edit")
	l.deploy(t, "web", 1)
	if _, err := c.WaitAvailable(t.Context(), Object{Name: "web"}, 1, nil); err != nil {
		t.Fatal(err)
	}
	_, err := l.admin.CoreV1().ResourceQuotas(l.namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "one-pod"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("1")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = l.standUp(ctx, t, c, "web", "quota", l.image, "Never")
	var stuck *PodStuckError
	if !errors.As(err, &stuck) || !strings.Contains(err.Error(), "exceeded quota: one-pod") {
		t.Errorf("quota: %v", err)
	}
	t.Log(err)
	if err := l.admin.CoreV1().ResourceQuotas(l.namespace).Delete(t.Context(), "one-pod", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	label := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`)
	if _, err := l.admin.CoreV1().Namespaces().Patch(t.Context(), l.namespace, types.MergePatchType, label, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = l.standUp(ctx, t, c, "web", "psa", l.image, "Never")
	if !errors.As(err, &stuck) || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("pod security: %v", err)
	}
	t.Log(err)
}

// standUp makes an agent and waits for it; it is taken away at the test's end.
func (l *live) standUp(ctx context.Context, t *testing.T, c *Cluster, name, session, image, policy string) (notes []string, err error) {
	t.Helper()
	target, err := c.Resolve(ctx, Ref{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	agent := Agent{Session: session, Name: AgentName(name, session), Image: image, PullPolicy: policy, Keys: map[string][]byte{}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := errors.Join(c.DeleteAgent(ctx, agent.Name, nil), c.DeleteSecret(ctx, agent.Name)); err != nil {
			t.Error(err)
		}
	})
	if err := c.CreateSecret(ctx, target, agent); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateAgent(ctx, target, agent); err != nil {
		return nil, err
	}
	_, err = c.WaitAgentRunning(ctx, agent.Name, func(line string) { notes = append(notes, line) })
	return notes, err
}

// TestLiveBadInput looks at the messages for what a user may get wrong.
func TestLiveBadInput(t *testing.T) {
	l := startLive(t)
	dev, viewer, nobody := l.user(t, "dev", "edit"), l.user(t, "viewer", "view"), l.user(t, "nobody", "")
	l.deploy(t, "service-a", 1)
	l.deploy(t, "idle", 0)
	resolve := func(c *Cluster, ref Ref) error {
		_, err := c.Resolve(t.Context(), ref)
		return err
	}
	forged, err := Connect(Connection{Kubeconfig: l.config, User: "", Namespace: l.namespace}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, forged)
	for _, tc := range []struct {
		name  string
		err   error
		wants []string
	}{
		{"near name", resolve(dev, Ref{Name: "servcie-a"}), []string{`deployment "servcie-a" not found in namespace`, "did you mean service-a?"}},
		{"no replicas", resolve(dev, Ref{Name: "idle"}), []string{"scaled to 0", "kubectl scale deployment/idle"}},
		{"unknown container", resolve(dev, Ref{Name: "service-a", Container: "ap"}), []string{`no container "ap"`, "did you mean app?"}},
		{"unknown namespace", resolve(l.connectAdmin(t), Ref{Name: "service-a", Namespace: "kube-sistem"}), []string{`namespace "kube-sistem" not found`, "kube-system"}},
		{"namespace of others", resolve(dev, Ref{Name: "coredns", Namespace: "kube-system"}), []string{"missing permission", "get deployments.apps in namespace kube-system"}},
		{"may only look", viewer.CheckAccess(t.Context(), ""), []string{"missing permission", "patch deployments.apps/scale", "create secrets", "get pods/proxy", "--clusterrole=edit --serviceaccount=" + l.namespace + ":viewer --namespace=" + l.namespace}},
		{"may nothing", nobody.CheckAccess(t.Context(), ""), []string{"get deployments.apps", "list services"}},
		{"nothing to resolve", resolve(nobody, Ref{Name: "service-a"}), []string{"missing permission"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.err == nil {
				t.Fatal("no error")
			}
			t.Log(tc.err)
			for _, want := range tc.wants {
				if !strings.Contains(tc.err.Error(), want) {
					t.Errorf("misses %q", want)
				}
			}
		})
	}
	cidrs, err := viewer.ServiceCIDRs(t.Context())
	if err != nil || len(cidrs) == 0 || !cidrs[0].IsSingleIP() {
		t.Errorf("Service ranges for a viewer = %v, %v; want single addresses", cidrs, err)
	}
}

// TestLiveMarkRace lets many mark the same target at once: one wins.
func TestLiveMarkRace(t *testing.T) {
	l := startLive(t)
	c := l.user(t, "dev", "edit")
	l.deploy(t, "web", 1)
	target, err := c.Resolve(t.Context(), Ref{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	const racers = 12
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			_, errs[i] = c.Mark(t.Context(), target, Mark{ID: fmt.Sprint("racer", i), User: "u", Host: "h", Since: time.Now()})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		var swapped *AlreadySwappedError
		switch {
		case err == nil:
			won++
		case !errors.As(err, &swapped):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d have won", won)
	}
}
