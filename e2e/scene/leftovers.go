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
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SessionLabel is on every object that the product makes.
const SessionLabel = "teleswap.dev/session"

// Freeze remembers the namespace as it is now. At the test's end, when everything has
// been told to go, it must be so again, and no process and no object of the product may be
// left anywhere. What Kubernetes does by itself with the objects so far is waited for.
func (w *World) Freeze() {
	w.T.Helper()
	w.Eventually("what Kubernetes itself puts into a namespace and its objects", func() string {
		if moving := w.moving(); moving != "" {
			return moving
		}
		w.before = w.Snapshot(w.T.Context())
		for _, key := range []string{"ConfigMap/kube-root-ca.crt#1", "ServiceAccount/default#1"} {
			if w.before[key] == "" {
				return key + " is missing"
			}
		}
		return ""
	})
	w.T.Cleanup(w.checkNothingLeft)
}

// moving is what the cluster's controllers and its scheduler have still to do with the namespace's objects; "" if nothing. A pod
// is done with once it has a node, whether it comes up there or not.
func (w *World) moving() string {
	w.T.Helper()
	ctx, apps := w.T.Context(), w.Lab.Kube.AppsV1()
	var first string
	count := func(kind string, of metav1.ObjectMeta, observed int64, found, want int32) {
		if first == "" && (observed != of.Generation || found != want) {
			first = fmt.Sprintf("%s %s has %d of %d pods, as seen at generation %d of %d", kind, of.Name, found, want, observed, of.Generation)
		}
	}
	deployments, err := apps.Deployments(w.Namespace).List(ctx, metav1.ListOptions{})
	w.must(err, "list Deployments")
	for _, d := range deployments.Items {
		count("Deployment", d.ObjectMeta, d.Status.ObservedGeneration, d.Status.Replicas, *d.Spec.Replicas)
		if first == "" && d.Annotations["deployment.kubernetes.io/revision"] == "" {
			first = "Deployment " + d.Name + " has no revision yet"
		}
	}
	replicaSets, err := apps.ReplicaSets(w.Namespace).List(ctx, metav1.ListOptions{})
	w.must(err, "list ReplicaSets")
	for _, r := range replicaSets.Items {
		count("ReplicaSet", r.ObjectMeta, r.Status.ObservedGeneration, r.Status.Replicas, *r.Spec.Replicas)
	}
	statefulSets, err := apps.StatefulSets(w.Namespace).List(ctx, metav1.ListOptions{})
	w.must(err, "list StatefulSets")
	for _, s := range statefulSets.Items {
		count("StatefulSet", s.ObjectMeta, s.Status.ObservedGeneration, s.Status.Replicas, *s.Spec.Replicas)
	}
	daemonSets, err := apps.DaemonSets(w.Namespace).List(ctx, metav1.ListOptions{})
	w.must(err, "list DaemonSets")
	for _, d := range daemonSets.Items {
		count("DaemonSet", d.ObjectMeta, d.Status.ObservedGeneration, d.Status.CurrentNumberScheduled, d.Status.DesiredNumberScheduled)
	}
	// The pods last: what was counted above is among them.
	pods, err := w.Lab.Kube.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{})
	w.must(err, "list pods")
	for _, p := range pods.Items {
		switch {
		case first != "":
		case p.Spec.NodeName == "":
			first = "pod " + p.Name + " has no node yet"
		case p.DeletionTimestamp != nil:
			first = "pod " + p.Name + " is being deleted"
		}
	}
	return first
}

// Snapshot is the namespace as it is now.
func (w *World) Snapshot(ctx context.Context) Snapshot {
	w.T.Helper()
	s, err := TakeSnapshot(ctx, w.Lab.Dyn, w.Namespace)
	w.must(err, "take a snapshot of %s", w.Namespace)
	return s
}

// Unchanged says what differs now from when Freeze was called; "" if nothing does.
func (w *World) Unchanged() string {
	w.T.Helper()
	return w.before.Diff(w.Snapshot(w.T.Context()))
}

// WaitUnchanged waits until the namespace is as it was when Freeze was called.
func (w *World) WaitUnchanged() {
	w.T.Helper()
	w.Eventually("the namespace to be as before", w.Unchanged)
}

// checkNothingLeft ends the daemon in the way users do, and then looks for remains. A
// failed test may well have left some: then they are removed without a word.
func (w *World) checkNothingLeft() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.T.Context()), patience)
	defer cancel()
	if w.DaemonPID() != 0 {
		if err := w.quit(ctx); err != nil {
			w.T.Errorf("teleswap quit: %v", err)
		}
	}
	err := poll(ctx, func() string {
		if left := w.Processes(); len(left) > 0 {
			return fmt.Sprintf("processes left: %v", left)
		}
		if left := w.labelled(ctx); left != "" {
			return left
		}
		if left, _ := filepath.Glob(filepath.Join(os.TempDir(), w.Namespace+"-*")); len(left) > 0 {
			return fmt.Sprintf("folders left: %v", left)
		}
		after, err := TakeSnapshot(ctx, w.Lab.Dyn, w.Namespace)
		if err != nil {
			return err.Error()
		}
		if diff := w.before.Diff(after); diff != "" {
			return "before and after differ:\n" + diff
		}
		return ""
	})
	if err != nil {
		w.T.Errorf("something is left: %v", err)
		w.killProcesses()
	}
	w.checkLogs()
}

func poll(ctx context.Context, missing func() string) error {
	for {
		detail := missing()
		if detail == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), detail)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *World) quit(ctx context.Context) error {
	cmd := w.laptop().command(w.User, w.Home, w.environment(), w.Lab.Bin.Teleswap, "quit")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%w: %s", err, out.String())
		}
		return nil
	case <-ctx.Done():
		_ = cmd.Process.Kill() // it may have ended by now
		if err := <-ended; err == nil {
			return nil // it was done in time after all
		}
		return fmt.Errorf("%w: %s", ctx.Err(), out.String())
	}
}

// Left lists objects of the product in this namespace; "" when there are none.
func (w *World) Left() string { return w.labelled(w.T.Context()) }

func (w *World) labelled(ctx context.Context) string {
	var found []string
	for _, kind := range watched() {
		list, err := w.Lab.Dyn.Resource(kind).Namespace(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: SessionLabel})
		if err != nil {
			return fmt.Sprintf("list %s: %v", kind.Resource, err)
		}
		for _, o := range list.Items {
			found = append(found, o.GetKind()+"/"+o.GetName())
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "objects with label " + SessionLabel + ": " + strings.Join(found, ", ")
}

// Process is one that the world's user runs.
type Process struct {
	PID  int
	Args []string
}

// UID is the real user of the process; -1 when it is gone.
func (p Process) UID() int {
	uid, err := strconv.Atoi(p.status("Uid"))
	if err != nil {
		return -1
	}
	return uid
}

// Stopped says that job control has stopped the process.
func (p Process) Stopped() bool { return p.status("State") == "T" }

// status is the first word of a line of the process's status; "" when it is gone.
func (p Process) status(name string) string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID)) // gone: no line
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name+":" {
			return fields[1]
		}
	}
	return ""
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")) }

// Processes lists what the world's user runs now, zombies aside.
func (w *World) Processes() []Process {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		w.T.Errorf("list processes: %v", err)
	}
	var found []Process
	for _, dir := range entries {
		if !w.owns(dir) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))               // digits, by the pattern
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // gone by now: empty, and skipped
		if len(cmdline) > 0 {
			found = append(found, Process{pid, strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")})
		}
	}
	return found
}

// owns goes by the user, who is the world's alone, and by the mark in the environment, which
// finds what somebody else (root, in a test) started for this world.
func (w *World) owns(proc string) bool {
	env, _ := os.ReadFile(filepath.Join(proc, "environ")) // gone, or somebody else's
	if bytes.Contains(env, []byte(w.marker()+"\x00")) {
		return true
	}
	if w.User.UID == os.Getuid() {
		return false
	}
	// Not the owner of the folder in /proc: that is root where a process is not dumpable.
	status, _ := os.ReadFile(filepath.Join(proc, "status")) // gone by now: not ours
	return strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", w.User.UID))
}

// DaemonPID is 0 when the world has no daemon.
func (w *World) DaemonPID() int {
	for _, p := range w.Processes() {
		if len(p.Args) > 1 && filepath.Base(p.Args[0]) == "teleswap" && p.Args[1] == "daemon" {
			return p.PID
		}
	}
	return 0
}

// Kill sends SIGKILL to a process of this world.
func (w *World) Kill(pid int) {
	w.T.Helper()
	if pid <= 1 {
		w.T.Fatalf("no process to kill (pid %d)", pid)
	}
	w.must(syscall.Kill(pid, syscall.SIGKILL), "kill %d", pid)
}

// Terminate sends SIGTERM to a process of this world.
func (w *World) Terminate(pid int) {
	w.T.Helper()
	if pid <= 1 {
		w.T.Fatalf("no process to end (pid %d)", pid)
	}
	w.must(syscall.Kill(pid, syscall.SIGTERM), "end %d", pid)
}

func (w *World) killProcesses() {
	for _, p := range w.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL) // gone by now: as wanted
	}
}

// checkLogs looks for what must never be in a log.
func (w *World) checkLogs() {
	for name, text := range map[string]string{"daemon.log": w.DaemonLog(), "the agents' logs": w.agents.stop()} {
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(text, bad) {
				w.T.Errorf("%s has %q:\n%s", name, bad, around(text, bad))
			}
		}
	}
	races, _ := filepath.Glob(filepath.Join(w.dir, "tmp", "race.*"))
	for _, path := range races {
		content, err := os.ReadFile(path)
		w.T.Errorf("the race detector reported (%v):\n%.6000s", err, content)
	}
}

func around(text, what string) string {
	at := strings.Index(text, what)
	return text[max(0, at-500):min(len(text), at+4000)]
}
