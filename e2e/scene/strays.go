package scene

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dirPrefix begins the names of runs' folders: then come the run's process id and something random.
const dirPrefix = "tswap-e2e-"

// runLabel is on the namespaces of a run: its machine and process id.
const runLabel = "e2e.teleswap.dev/run"

func thisRun() string { return runOf(os.Getpid()) }

func runOf(pid int) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%.40s.%d", strings.ToLower(host), pid)
}

// removeStrays removes what runs of this machine have left that were killed: folders,
// processes of their users, namespaces in the cluster.
func (l *Lab) removeStrays(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for folders of killed runs: %w", err)
	}
	for _, dir := range dirs {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(text)
		if err != nil || alive(pid) {
			continue
		}
		l.say("a run was killed (pid %d): removing what it left", pid)
		killMarked(fmt.Sprintf("%se2e-%d-", markerName, pid))
		if err := removeGroups(pid); err != nil {
			return fmt.Errorf("end the containers of a killed run: %w", err)
		}
		if err := l.deleteNamespaces(ctx, runLabel+"="+runOf(pid)); err != nil {
			return fmt.Errorf("delete namespaces of a killed run: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the folder of a killed run: %w", err)
		}
	}
	return nil
}

func (l *Lab) deleteNamespaces(ctx context.Context, selector string) error {
	namespaces := l.Kube.CoreV1().Namespaces()
	list, err := namespaces.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err
	}
	for _, ns := range list.Items {
		if err := namespaces.Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// killMarked ends every process whose environment has a variable that begins so.
func killMarked(begin string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well-formed
	for _, path := range environs {
		env, _ := os.ReadFile(path) // gone, or somebody else's
		if !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+begin)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone by now: as wanted
		}
	}
}
