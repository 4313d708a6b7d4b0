package scene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Lab is what all tests of a run share: the cluster, the laptop, the built
// binaries and images. Safe for concurrent use; Close it after the last test.
type Lab struct {
	Root string // the repository
	Dir  string // of this run, readable to everyone
	Kube kubernetes.Interface
	Dyn  dynamic.Interface
	Bin  Binaries
	// Images are the references under which the cluster has our images.
	Images Images
	Laptop *Laptop

	// Kubectl is the embedded cluster's own, with ctr beside it, and Containerd its runtime's socket; empty with
	// a cluster of the user's own.
	Kubectl, Containerd string

	// Kubeconfigs with an administrator's credentials: for this process, and for the laptop.
	kubeconfig       string
	laptopKubeconfig string
	laptopNet        string // path of its network namespace; "" with a cluster of the user's own
	nodePID          int    // process 1 of the embedded cluster's node
	log              io.Writer
	locked           *os.File // the lock of e2e runs
	worlds           atomic.Int32

	second    sync.Mutex // held by the test that uses the second node
	hasSecond bool       // whether the run has added it
	another   sync.Mutex // held by the test that has another cluster

	extras extras
	docker dockerOnce
	config *rest.Config
}

// Images are references of images that the cluster can start.
type Images struct{ Agent, SlowAgent, Probe, ServiceA, ServiceB string }

// KubeconfigVariable names a cluster to use instead of the embedded one.
const KubeconfigVariable = "TELESWAP_E2E_KUBECONFIG"

// ImagesVariable is the prefix under which a cluster of the user's own finds the
// images agent, slow-agent, probe, service-a, service-b, servers, controller and quic (tag e2e).
const ImagesVariable = "TELESWAP_E2E_IMAGES"

// Missing says why the tests cannot run here and what to do; "" when they can.
func Missing() string {
	switch {
	case runtime.GOOS != "linux":
		return "the e2e tests need Linux (network namespaces): run them in a Linux machine, or see CI"
	case os.Getenv(KubeconfigVariable) != "" && os.Getenv(ImagesVariable) == "":
		return KubeconfigVariable + " is set, " + ImagesVariable + " is not: push the images (see e2e/doc.go) and name their prefix"
	case os.Getenv(KubeconfigVariable) == "" && os.Geteuid() != 0:
		return "needs root for the embedded cluster: sudo make e2e, or set " + KubeconfigVariable + " for a cluster of yours (see e2e/doc.go)"
	}
	return ""
}

// Open builds the binaries and brings up the cluster; both are quick the second time.
// What is being done is told on log. The cluster stays up after Close: `make
// cluster-down` takes it away.
func Open(ctx context.Context, log io.Writer) (_ *Lab, err error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make a folder for the run: %w", err)
	}
	l := &Lab{Root: root, Dir: dir, log: log}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open the folder of the run to the laptop's user: %w", err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"build the binaries", l.build},
		{"bring up the cluster", l.bringUp},
		{"set up the laptop", l.setUpLaptop},
		{"connect to the cluster", l.connect},
		{"look for what killed runs left", l.removeStrays},
	} {
		start := time.Now()
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		l.say("%s (%s)", step.name, time.Since(start).Round(100*time.Millisecond))
	}
	return l, nil
}

// Close removes what Open made, except the cluster.
func (l *Lab) Close() {
	if l.docker.docker != nil {
		if err := l.docker.docker.close(); err != nil {
			l.say("end docker: %v", err)
		}
	}
	if l.Laptop != nil {
		if err := l.Laptop.close(); err != nil {
			l.say("take the laptop down: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the run's own may have ended
	defer cancel()
	if err := l.removeSecond(ctx); err != nil {
		l.say("%v", err)
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		l.say("remove %s: %v", l.Dir, err)
	}
	if l.locked != nil {
		_ = l.locked.Close()
	}
}

func (l *Lab) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l.log, "e2e: "+format+"\n", args...)
}

func (l *Lab) connect(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig)
	if err != nil {
		return fmt.Errorf("load %s: %w", l.kubeconfig, err)
	}
	config.QPS, config.Burst = 200, 400
	l.config = config
	if l.Kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	if l.Dyn, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("make a dynamic client: %w", err)
	}
	if _, err := l.Kube.Discovery().ServerVersion(); err != nil {
		return fmt.Errorf("ask the API server for its version: %w", err)
	}
	return ctx.Err()
}

// repository finds the folder that holds the module.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/teleswap/teleswap\n") {
			return dir, nil
		}
	}
	return "", errors.New("find the repository: no go.mod of github.com/teleswap/teleswap above the test's folder")
}
