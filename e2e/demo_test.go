package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// TestSwapMakeDemo types what README's first line says: `make demo`, here as root, with the
// embedded cluster, in a Kubernetes namespace and with a daemon of its own.
func TestSwapMakeDemo(t *testing.T) {
	parallel(t)
	if os.Geteuid() != 0 || os.Getenv("TELESWAP_E2E_KUBECONFIG") != "" {
		t.Skip("needs root and the embedded cluster: sudo make e2e")
	}
	home, namespace := t.TempDir(), "demo-"+filepath.Base(t.TempDir())
	env := append(os.Environ(), "DEMO_NAMESPACE="+namespace, "KUBECONFIG=", "TELESWAP_RUNTIME_DIR=",
		"XDG_RUNTIME_DIR="+filepath.Join(home, "run"), "XDG_STATE_HOME="+filepath.Join(home, "state"))
	run := func(name string, args ...string) (stdout, stderr string, err error) {
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = stage.lab.Root, env, &out, &errs
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // the demo cleans up
		cmd.WaitDelay = 2 * time.Minute
		err = cmd.Run()
		return out.String(), errs.String(), err
	}
	stdout, stderr, err := run("make", "--silent", "demo")
	if _, errs, err := run("bin/teleswap", "quit"); err != nil {
		t.Errorf("quit: %v\n%s", err, errs)
	}
	if _, errs, err := run(".cache/cluster/bin/kubectl", "--kubeconfig", ".cache/cluster/kubeconfig",
		"delete", "namespace", namespace, "--wait=false", "--ignore-not-found"); err != nil {
		t.Errorf("delete the demo's namespace: %v\n%s", err, errs)
	}
	if err != nil {
		t.Fatalf("make demo: %v\n%s\n%s", err, stdout, stderr)
	}
	var answers [][]byte
	for line := range bytes.Lines([]byte(stdout)) {
		if bytes.HasPrefix(line, []byte(`{"`)) {
			answers = append(answers, bytes.TrimSpace(line))
		}
	}
	want := []string{
		`^\{"env":"test","message":"Yo Hi"\}$`,
		`^\{"env":"test","message":"Yo Hi","dateTime":\d{10}\}$`,
		`^\{"env":"test","message":"Yo Hi"\}$`,
	}
	if len(answers) != len(want) {
		t.Fatalf("got %d answers, want 3:\n%s\n%s", len(answers), stdout, stderr)
	}
	for i, pattern := range want {
		if !regexp.MustCompile(pattern).Match(answers[i]) {
			t.Errorf("answer %d is %s, want %s", i+1, answers[i], pattern)
		}
	}
}
