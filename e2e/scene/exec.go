package scene

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container of the one pod that a selector finds, as kubectl exec does, and
// returns its standard output. The command must end well.
func (w *World) Exec(selector, container string, argv ...string) string {
	w.T.Helper()
	stdout, err := w.TryExec(selector, container, argv...)
	w.must(err, "exec")
	return stdout
}

// TryExec is Exec for a command that may fail; its standard error is in the error.
func (w *World) TryExec(selector, container string, argv ...string) (string, error) {
	w.T.Helper()
	pods := w.Pods(selector)
	if len(pods) != 1 {
		w.T.Fatalf("%d pods of %s, want 1", len(pods), selector)
	}
	request := w.Lab.Kube.CoreV1().RESTClient().Post().Namespace(w.Namespace).Resource("pods").Name(pods[0].Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(w.Lab.config, "GET", request.URL().String())
	w.must(err, "exec in %s", pods[0].Name)
	var stdout, stderr strings.Builder
	err = executor.StreamWithContext(w.T.Context(), remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w: %s", strings.Join(argv, " "), pods[0].Name, err, &stderr)
	}
	return stdout.String(), nil
}
