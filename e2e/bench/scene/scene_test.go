package scene

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/remote"
	"github.com/teleswap/teleswap/e2e/bench/report"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage makes a scene on this machine, with scripts in the place of kubectl
// and teleswap, and a server in that of the pod.
func stage(t *testing.T) (_ *Scene, log func() string) {
	t.Helper()
	dir := t.TempDir()
	probe := filepath.Join(dir, "probe")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", probe, "../probe").CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	scripts, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	logFile := filepath.Join(dir, "log")
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, []byte(statusText), 0o600); err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pod := lis.Addr().String()
	_ = lis.Close()
	port := netip.MustParseAddrPort(pod).Port()
	s, err := New(t.Context(), Config{
		Laptop: place.Place{Env: []string{
			"PATH=" + os.Getenv("PATH"), "TELESWAP_RUNTIME_DIR=/run/user/x", "XDG_STATE_HOME=/state",
			"BENCH_TEST_LOG=" + logFile, "BENCH_TEST_STATUS=" + status, "BENCH_TEST_POD=" + pod,
		}},
		Kubectl: filepath.Join(scripts, "kubectl"), Teleswap: filepath.Join(scripts, "teleswap"),
		Probe: probe, Image: "example.com/probe:1", Namespace: "here", Port: port,
		Transports: []string{"pod-proxy"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s, func() string {
		text, err := os.ReadFile(logFile)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

const statusText = `{"daemon": {"pid": 7}, "sessions": [
  {"target": "deployment/other:app", "transport": "pod-ip", "steps": [{"name": "wrong", "milliseconds": 1}]},
  {"target": "deployment/bench-target:app", "transport": "pod-proxy", "steps": [
    {"name": "resolve", "state": "done", "milliseconds": 12.5}, {"name": "shift", "state": "done", "milliseconds": 40}]}
]}`

func TestNewAppliesEveryDeployment(t *testing.T) {
	s, log := stage(t)
	for _, name := range []string{Server, "bench-target", "bench-target-pod-proxy", Work} {
		if want := "rollout status deployment/" + name + " -n here"; !strings.Contains(log(), want) {
			t.Errorf("%q was not waited for:\n%s", want, log())
		}
	}
	manifest, err := s.manifest()
	if err != nil {
		t.Fatal(err)
	}
	for want, times := range map[string]int{
		"kind: Deployment": 4, "kind: Service\n": 4, "image: example.com/probe:1": 5, "namespace: here": 8, "replicas: 2": 1, "emptyDir": 1,
	} {
		if got := strings.Count(manifest, want); got != times {
			t.Errorf("%q is %d times in the manifest, want %d:\n%s", want, got, times, manifest)
		}
	}
}

func TestPods(t *testing.T) {
	s, _ := stage(t)
	name, address, err := s.ServerPod(t.Context())
	if err != nil || name != "the-pod" || address != fmt.Sprintf("127.0.0.1:%d", s.Port) {
		t.Errorf("got %s at %s, %v: want the running pod", name, address, err)
	}
	namespaces, err := Namespaces(t.Context(), s.Config)
	if err != nil || !slices.Equal(namespaces, []string{"here", "there"}) {
		t.Errorf("namespaces: got %v, %v", namespaces, err)
	}
	service, err := s.ServiceAddress(t.Context(), Server)
	if err != nil || service != "127.0.0.1:80" {
		t.Errorf("got %s, %v", service, err)
	}
}

func TestPortForward(t *testing.T) {
	s, _ := stage(t)
	forward, err := s.PortForward(t.Context(), "the-pod")
	if err != nil {
		t.Fatal(err)
	}
	if forward.Address != fmt.Sprintf("127.0.0.1:%d", s.Port) || !forward.Alive() {
		t.Errorf("got %s, alive: %v", forward.Address, forward.Alive())
	}
	if err := forward.Close(); err != nil || forward.Alive() {
		t.Errorf("close: %v, alive: %v", err, forward.Alive())
	}
}

func TestSwap(t *testing.T) {
	s, log := stage(t)
	for _, tc := range []struct {
		transport, called string
	}{
		{"", "swap --deployment bench-target -n here --run"},
		{"pod-proxy", "swap --deployment bench-target-pod-proxy -n here --run"},
	} {
		t.Run(tc.transport, func(t *testing.T) {
			w, err := s.Swap(t.Context(), tc.transport)
			if err != nil {
				t.Fatal(err)
			}
			if !w.Done.After(w.Typed) || !w.Hello().At.After(w.Typed) {
				t.Errorf("typed %v, local process at %v, done %v", w.Typed, w.Hello().At, w.Done)
			}
			if !strings.Contains(log(), tc.called) {
				t.Errorf("want %q in\n%s", tc.called, log())
			}
			a, err := w.Do(t.Context(), remote.Request{Kind: remote.RoundTrip, Address: fmt.Sprintf("127.0.0.1:%d", s.Port), Duration: 10 * time.Millisecond})
			if err != nil || a.Latency.P50 <= 0 {
				t.Errorf("the local process measures %+v, %v", a.Latency, err)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if want := "by pod-proxy in /run/user/x-pod-proxy"; !strings.Contains(log(), want) {
		t.Errorf("want %q in\n%s", want, log())
	}
}

func TestSwapTellsWhyNot(t *testing.T) {
	s, _ := stage(t)
	_, err := s.Swap(t.Context(), "no-such")
	if err == nil || !strings.Contains(err.Error(), "no deployment no-such") {
		t.Errorf("got error %v, want what teleswap said", err)
	}
}

func TestStatusIsPreferredToLines(t *testing.T) {
	s, _ := stage(t)
	w, err := s.Swap(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	if want := []report.Step{{Name: "resolve", Milliseconds: 12.5}, {Name: "shift", Milliseconds: 40}}; !slices.Equal(w.Steps, want) {
		t.Errorf("got %v, want %v", w.Steps, want)
	}
	if w.Transport != "pod-proxy" {
		t.Errorf("transport is %q", w.Transport)
	}
	if _, err := w.Process.Stderr().Await(t.Context(), func(line string) bool { return strings.HasPrefix(line, "✓ shift") }); err != nil {
		t.Fatal(err)
	}
	lines := []report.Step{{Name: "resolve", Milliseconds: 12}, {Name: "agent", Milliseconds: 1500}}
	undone := []report.Step{{Name: "shift", Milliseconds: 939}}
	if got, undos := stepsOfLines(w.Process.Stderr().All()); !slices.Equal(got, lines) || !slices.Equal(undos, undone) {
		t.Errorf("lines: got %v and %v, want %v and %v", got, undos, lines, undone)
	}
}
