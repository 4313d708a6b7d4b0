package scene

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// needsNode skips the test where the node is not this machine.
func (w *World) needsNode() {
	w.T.Helper()
	if os.Getenv(KubeconfigVariable) != "" {
		w.T.Skip("needs the processes of the node: run on the embedded cluster")
	}
}

// PodProcess is a process of a pod, by the name of its program. It needs the embedded cluster.
func (w *World) PodProcess(pod, program string) int {
	w.T.Helper()
	w.needsNode()
	return w.oneProcess(program+" of pod "+pod, func(dir string) bool {
		return base(readProc(dir, "cmdline")) == program && bytes.Contains(readProc(dir, "environ"), []byte("HOSTNAME="+pod+"\x00"))
	})
}

// Stopped tells whether a process is stopped, by SIGSTOP for instance.
func (w *World) Stopped(pid int) bool {
	w.T.Helper()
	_, rest, _ := strings.Cut(string(readProc(fmt.Sprintf("/proc/%d", pid), "stat")), ") ")
	return strings.HasPrefix(rest, "T")
}

// RestartKubelet ends the node's kubelet, and returns when its supervisor has started it again. All pods are this kubelet's: no other
// test may run meanwhile. It needs the embedded cluster.
func (w *World) RestartKubelet() {
	w.T.Helper()
	w.needsNode()
	supervisor := strconv.Itoa(w.Lab.nodePID)
	kubelet := func(dir string) bool {
		_, rest, _ := strings.Cut(string(readProc(dir, "stat")), ") ")
		fields := strings.Fields(rest) // state, parent, …
		argv := bytes.Split(readProc(dir, "cmdline"), []byte{0})
		return len(fields) > 1 && fields[1] == supervisor && len(argv) > 1 && string(argv[1]) == "kubelet"
	}
	old := w.oneProcess("the kubelet", kubelet)
	w.must(syscall.Kill(old, syscall.SIGTERM), "end the kubelet")
	w.Eventually("the kubelet to be started again", func() string {
		if pids := processes(kubelet); len(pids) != 1 || pids[0] == old {
			return fmt.Sprint(pids)
		}
		return ""
	})
}

func (w *World) oneProcess(what string, is func(dir string) bool) int {
	w.T.Helper()
	pids := processes(is)
	if len(pids) != 1 {
		w.T.Fatalf("processes that are %s: %v, want one", what, pids)
	}
	return pids[0]
}

// processes looks at every process of the machine by its folder in /proc.
func processes(is func(dir string) bool) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	var pids []int
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && is(dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// readProc is empty for what has gone.
func readProc(dir, name string) []byte {
	content, _ := os.ReadFile(filepath.Join(dir, name))
	return content
}

// base is the name of the program in a command line of /proc.
func base(cmdline []byte) string {
	program, _, _ := bytes.Cut(cmdline, []byte{0})
	return filepath.Base(string(program))
}
