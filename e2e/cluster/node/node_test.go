//go:build linux

package node

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/e2e/cluster/cgroup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadConfig(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"whole", `{"IP":"192.168.56.2"}`, ""},
		{"the starter died before it wrote", "", "gone"},
		{"the starter died while it wrote", `{"IP":"192.16`, "configuration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := readConfig(strings.NewReader(tt.in))
			switch {
			case tt.want == "" && (err != nil || cfg.IP != "192.168.56.2"):
				t.Errorf("got %+v, %v", cfg, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestWriteEtc(t *testing.T) {
	cfg := &Config{Name: "node", Server: "192.168.56.2", Group: cgroup.Group{Name: "tsw-test"}, IP: "192.168.56.2", IP6: "fd00:192:168:56::2", Etc: t.TempDir(), Snapshotter: "overlayfs", KeepOOM: true}
	admin, err := cfg.WriteEtc(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(cfg.Etc, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, want := range map[string][]string{
		"containerd.toml":        {`snapshotter = "overlayfs"`, `restrict_oom_score_adj = true`, `sandbox = "teleswap.dev/pause:1"`},
		"kubelet.yaml":           {"cgroupRoot: /tsw-test\n", `clusterDNS: ["10.96.0.10"]`},
		"cni/10-pods.conflist":   {`"subnet": "10.244.0.0/24"`, `"subnet": "fd00:10:244:0::/64"`, `"type": "settled"`},
		"addons/dns.yaml":        {"clusterIP: 10.96.0.10", "image: teleswap.dev/coredns:1", "kubernetes cluster.local "},
		"kubelet.kubeconfig":     {"server: https://192.168.56.2:6443"},
		"kube-proxy.kubeconfig":  {"certificate-authority-data: "},
		"front-proxy-client.crt": {"CERTIFICATE"},
	} {
		text := read(name)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in it", name, w)
			}
		}
		if strings.Contains(text, "<no value>") || strings.Contains(text, "{{") {
			t.Errorf("%s: not filled in", name)
		}
	}
	if !json.Valid([]byte(read("cni/10-pods.conflist"))) {
		t.Error("cni/10-pods.conflist is not JSON")
	}
	if out, err := exec.Command("env", "CNI_COMMAND=VERSION", filepath.Join(cfg.Etc, "cni-bin", "settled")).Output(); err != nil || !json.Valid(out) {
		t.Errorf("cni-bin/settled: got %q, %v, want JSON", out, err)
	}
	back, err := cfg.ReadAdmin()
	if err != nil || string(back.Bytes()) != string(admin.Bytes()) {
		t.Errorf("ReadAdmin: got another kubeconfig than WriteEtc gave (%v)", err)
	}
	for _, key := range []string{"ca.key", "sa.key", "admin.key"} {
		if info, err := os.Stat(filepath.Join(cfg.Etc, key)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", key, info, err)
		}
	}
}

// A program that ends is started again, and orphans are reaped.
func TestSupervisor(t *testing.T) {
	dir := t.TempDir()
	s := &supervisor{logger: slog.New(slog.NewTextHandler(io.Discard, nil)), logDir: dir, running: map[int]program{}}
	again := make(chan program, 1)
	s.later = func(p program) { again <- p }
	if err := s.start(program{name: "short", argv: []string{"/bin/sh", "-c", "echo said"}}); err != nil {
		t.Fatal(err)
	}
	for len(again) == 0 { // the child ends by itself
		s.reap()
		time.Sleep(time.Millisecond)
	}
	if p := <-again; p.name != "short" {
		t.Errorf("started again: got %s", p.name)
	}
	if len(s.running) != 0 {
		t.Errorf("still running: %v", s.running)
	}
	log, err := os.ReadFile(filepath.Join(dir, "short.log"))
	if err != nil || string(log) != "said\n" {
		t.Errorf("log: got %q, %v", log, err)
	}
	if err := s.start(program{name: "none", argv: []string{"/nonexistent"}}); err == nil {
		t.Error("a program that is not there: got no error")
	}
}
