package scene

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// patience bounds every wait for a condition. It is long because it is only ever used up
// by a failure.
const patience = 2 * time.Minute

// World is one test's own: a namespace, a user of the laptop with a home, a runtime
// directory and so a daemon of its own. It is taken down at the test's end, after
// a check that nothing was left.
type World struct {
	T         testing.TB
	Lab       *Lab
	Namespace string
	User      User
	Home      string
	// Kubeconfig is the user's own file; its context's namespace is Namespace.
	Kubeconfig string
	// Env is added to the environment of everything that the user runs.
	Env []string

	dir     string
	machine *Machine // nil: what runs, runs on the lab's laptop
	before  Snapshot
	agents  *agentLogs
}

// NewWorld makes a world for the test, with an ordinary user of the laptop.
func (l *Lab) NewWorld(t testing.TB) *World {
	t.Helper()
	n := l.worlds.Add(1)
	user := User{UID: firstUID + int(n) - 1}
	if l.Laptop.holder == nil {
		user = User{UID: os.Getuid()}
	}
	return l.newWorld(t, n, user)
}

// NewRootWorld makes a world whose user is the machine's administrator, with a home and
// a daemon of this world's own.
func (l *Lab) NewRootWorld(t testing.TB) *World {
	t.Helper()
	return l.newWorld(t, l.worlds.Add(1), root)
}

func (l *Lab) newWorld(t testing.TB, n int32, user User) *World {
	t.Helper()
	w := &World{T: t, Lab: l, Namespace: fmt.Sprintf("e2e-%d-%d", os.Getpid(), n), User: user}
	w.dir = filepath.Join(l.Dir, fmt.Sprintf("w%d", n))
	w.Home = filepath.Join(w.dir, "home")
	for _, d := range []string{w.Home, w.runtimeDir(), w.stateDir(), filepath.Join(w.dir, "tmp")} {
		w.must(os.MkdirAll(d, 0o700), "make %s", d)
	}
	w.Kubeconfig = filepath.Join(w.Home, "kubeconfig")
	w.writeKubeconfig(w.Kubeconfig, nil)
	w.own()
	_, err := l.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: w.Namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted", runLabel: thisRun()}},
	}, metav1.CreateOptions{})
	w.must(err, "make namespace %s", w.Namespace)
	t.Cleanup(w.deleteNamespace)
	w.Eventually("the namespace's ServiceAccount, without which no pod is admitted", func() string {
		if _, err := l.Kube.CoreV1().ServiceAccounts(w.Namespace).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	w.followAgents()
	t.Cleanup(w.tellOnFailure)
	return w
}

// RootHome is a home of root's own in this world.
func (w *World) RootHome() string {
	w.T.Helper()
	home := filepath.Join(w.Lab.Dir, filepath.Base(w.dir)+"-root")
	w.must(os.MkdirAll(filepath.Join(home, "run"), 0o700), "make root's home")
	return home
}

// laptop is where the world's commands run.
func (w *World) laptop() *Laptop {
	if w.machine != nil {
		return &w.machine.Laptop
	}
	return w.Lab.Laptop
}

func (w *World) runtimeDir() string { return filepath.Join(w.dir, "run") }
func (w *World) stateDir() string   { return filepath.Join(w.dir, "state") }

// own gives the world's files to its user. Some come and go meanwhile: what runs in the world makes files, too.
func (w *World) own() {
	w.T.Helper()
	err := filepath.WalkDir(w.dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, w.User.UID, w.User.UID)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	w.must(err, "give %s to uid %d", w.dir, w.User.UID)
}

// File puts a file into the user's home and returns its path.
func (w *World) File(name, content string) string {
	w.T.Helper()
	path := filepath.Join(w.Home, name)
	w.must(os.MkdirAll(filepath.Dir(path), 0o700), "make a folder")
	w.must(os.WriteFile(path, []byte(content), 0o600), "write %s", name)
	w.own()
	return path
}

// CopyDir copies a folder of the repository into the user's home.
func (w *World) CopyDir(from, name string) string {
	w.T.Helper()
	to := filepath.Join(w.Home, name)
	w.must(os.CopyFS(to, os.DirFS(filepath.Join(w.Lab.Root, from))), "copy %s", from)
	w.own()
	return to
}

func (w *World) must(err error, format string, args ...any) {
	w.T.Helper()
	if err != nil {
		w.T.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// Path is the PATH of the laptop's users, with Go's tools and with other folders.
func (w *World) Path(more ...string) string {
	w.T.Helper()
	tool, err := exec.LookPath("go")
	w.must(err, "find go")
	return strings.Join(append([]string{filepath.Dir(tool), "/usr/local/bin", "/usr/bin", "/bin"}, more...), ":")
}

// environment is what the user's shell would have.
func (w *World) environment() []string {
	env := []string{
		"HOME=" + w.Home, "USER=dev", "LOGNAME=dev", "SHELL=/bin/sh", "LANG=C.UTF-8", "TERM=dumb",
		"PATH=" + w.Path(filepath.Join(w.Lab.Dir, "bin")),
		"TMPDIR=" + filepath.Join(w.dir, "tmp"),
		"XDG_RUNTIME_DIR=" + w.runtimeDir(), "XDG_STATE_HOME=" + w.stateDir(),
		"KUBECONFIG=" + w.Kubeconfig,
		"TELESWAP_AGENT_IMAGE=" + w.Lab.Images.Agent,
		"GOPROXY=off", "GOTOOLCHAIN=local",
		"GORACE=exitcode=66 log_path=" + filepath.Join(w.dir, "tmp", "race"),
		w.marker(),
	}
	return append(env, w.Env...)
}

// marker is in the environment of every process that the world's user starts.
func (w *World) marker() string { return markerName + w.Namespace }

const markerName = "TELESWAP_E2E_WORLD="

// Login is who a kubeconfig says its user is.
type Login struct{ Token string }

// writeKubeconfig copies the administrator's file with the world's namespace; a login
// takes the place of the administrator's credentials.
func (w *World) writeKubeconfig(path string, login *Login) {
	w.T.Helper()
	config, err := clientcmd.LoadFromFile(w.Lab.laptopKubeconfig)
	w.must(err, "load %s", w.Lab.laptopKubeconfig)
	// Certificates go inside: the administrator's files are not the user's to read.
	w.must(clientcmdapi.FlattenConfig(config), "put the files of %s into it", w.Lab.laptopKubeconfig)
	current := config.Contexts[config.CurrentContext]
	current.Namespace = w.Namespace
	if login != nil {
		auth := config.AuthInfos[current.AuthInfo]
		*auth = *auth.DeepCopy()
		auth.ClientCertificate, auth.ClientCertificateData, auth.ClientKey, auth.ClientKeyData = "", nil, "", nil
		auth.Token, auth.TokenFile, auth.Exec = login.Token, "", nil
	}
	w.must(clientcmd.WriteToFile(*config, path), "write %s", path)
}

// LoginAs makes the user's kubeconfig that of somebody else from now on.
func (w *World) LoginAs(login Login) {
	w.T.Helper()
	w.writeKubeconfig(w.Kubeconfig, &login)
	w.own()
}

// KubeconfigOf writes one more kubeconfig, of somebody else, and returns its path.
func (w *World) KubeconfigOf(name string, login Login) string {
	w.T.Helper()
	path := filepath.Join(w.Home, "kubeconfig-"+name)
	w.writeKubeconfig(path, &login)
	w.own()
	return path
}

// CurrentContext is the name of the context in the user's kubeconfig.
func (w *World) CurrentContext() string {
	w.T.Helper()
	config, err := clientcmd.LoadFromFile(w.Kubeconfig)
	w.must(err, "load %s", w.Kubeconfig)
	return config.CurrentContext
}

// deleteNamespace does not wait until it is gone: no other test uses its name.
func (w *World) deleteNamespace() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.T.Context()), patience)
	defer cancel()
	err := w.Lab.Kube.CoreV1().Namespaces().Delete(ctx, w.Namespace, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.T.Errorf("delete namespace %s: %v", w.Namespace, err)
	}
}

const (
	// lookFirst and lookLast are how often a condition is looked at: most hold soon, and what asks the API server or starts a program
	// for each look takes processor time from what it waits for.
	lookFirst = 50 * time.Millisecond
	lookLast  = 250 * time.Millisecond
)

// Eventually waits until the condition holds. It returns "" then, otherwise what is still
// missing; the test fails with that once patience is over.
func (w *World) Eventually(what string, missing func() string) {
	w.T.Helper()
	deadline := time.Now().Add(patience)
	for wait := lookFirst; ; wait = min(wait*5/4, lookLast) {
		detail := missing()
		if detail == "" {
			return
		}
		if time.Now().After(deadline) {
			w.T.Fatalf("waited %s for %s; still: %s", patience, what, detail)
		}
		time.Sleep(wait)
	}
}

// DaemonLog is what the daemon wrote so far; "" if there is none.
func (w *World) DaemonLog() string {
	content, _ := os.ReadFile(filepath.Join(w.runtimeDir(), "teleswap", "daemon.log")) // absent: no daemon ran
	return string(content)
}

// AgentLogs is everything that the world's agents printed; it ends the following of them.
func (w *World) AgentLogs() string { return w.agents.stop() }

func (w *World) tellOnFailure() {
	if !w.T.Failed() {
		return
	}
	w.T.Logf("daemon.log of %s:\n%s", w.Namespace, tail(w.DaemonLog(), 60))
	w.T.Logf("agents' logs:\n%s", tail(w.agents.text(), 40))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.T.Context()), 10*time.Second)
	defer cancel()
	pods, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, p := range pods.Items {
		ready := "not ready"
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				ready = "ready"
			}
		}
		w.T.Logf("pod %s %s %s deleted=%v", p.Name, p.Status.Phase, ready, p.DeletionTimestamp)
	}
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
