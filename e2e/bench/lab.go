package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/report"
	"github.com/teleswap/teleswap/e2e/bench/scene"
)

// labOptions say which cluster and which binaries.
type labOptions struct {
	kubeconfig string
	kubectl    string
	nodeNet    string
	laptopNet  string
	uid        int
	teleswap   string
	agent      string
	agentImage string
	probeImage string
}

func (o *labOptions) register(flags *flag.FlagSet) {
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "measure on this cluster instead of the embedded one; needs -probe-image and -agent-image")
	flags.StringVar(&o.kubectl, "kubectl", "", "kubectl to use (default: the embedded cluster's own, else that of PATH)")
	flags.StringVar(&o.nodeNet, "node-net", "", "network namespace from which pod addresses are reached (default: the embedded cluster's, else the bench's own)")
	flags.StringVar(&o.laptopNet, "laptop-net", "", "network namespace of the laptop (default: as -node-net)")
	flags.IntVar(&o.uid, "uid", 64000, "ordinary user who runs kubectl and teleswap, when the bench itself runs as root")
	flags.StringVar(&o.teleswap, "teleswap", "bin/teleswap", "the binary to measure")
	flags.StringVar(&o.agent, "agent", "bin/teleswap-agent", "the agent's static binary, put into an image on the embedded cluster")
	flags.StringVar(&o.agentImage, "agent-image", "", "image of the agent in the cluster, instead of one with -agent")
	flags.StringVar(&o.probeImage, "probe-image", "", "image in the cluster with e2e/bench/probe at /probe, instead of one made now")
}

// openLab makes the folder of the run with the binaries, and finds the
// cluster.
func openLab(ctx context.Context, o labOptions, undo *cleanups, stderr io.Writer, logger *slog.Logger) (scene.Config, error) {
	root, err := repository()
	if err != nil {
		return scene.Config{}, err
	}
	// Short: the paths of unix sockets have a limit of 108 bytes.
	dir, err := os.MkdirTemp("/tmp", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return scene.Config{}, fmt.Errorf("make the folder of the run: %w", err)
	}
	undo.add(func(context.Context) error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		return scene.Config{}, fmt.Errorf("open the folder of the run: %w", err)
	}
	l := &lab{labOptions: o, root: root, dir: dir}
	if err := l.binaries(ctx); err != nil {
		return scene.Config{}, err
	}
	if o.kubeconfig == "" {
		if err := l.embedded(ctx, stderr, logger); err != nil {
			return scene.Config{}, err
		}
	} else if o.probeImage == "" || o.agentImage == "" {
		return scene.Config{}, fmt.Errorf("-kubeconfig needs -probe-image and -agent-image: build them from e2e/bench/probe and Dockerfile, and push them where the cluster finds them")
	}
	return l.config(logger)
}

// lab collects what scene.Config needs.
type lab struct {
	labOptions
	root, dir string
	probe     string
}

// repository is the folder of the module.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		mod, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/teleswap/teleswap\n") {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find the repository: %s is not in it: run make bench", dir)
		}
	}
}

// binaries builds the probe and copies teleswap to where the laptop's user can
// run it.
func (l *lab) binaries(ctx context.Context) error {
	l.probe = filepath.Join(l.dir, "probe")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", l.probe, "./e2e/bench/probe")
	build.Dir, build.Env = l.root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	from := l.teleswap
	l.teleswap = filepath.Join(l.dir, "teleswap")
	return copyFile(l.inRoot(from), l.teleswap, 0o755)
}

func (l *lab) inRoot(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(l.root, path)
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy to the folder of the run: %w", err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("copy to the folder of the run: %w", err)
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

// config makes the user's home and environment.
func (l *lab) config(logger *slog.Logger) (scene.Config, error) {
	home := filepath.Join(l.dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return scene.Config{}, fmt.Errorf("make the user's home: %w", err)
	}
	kubeconfig := filepath.Join(home, "kubeconfig")
	if err := copyFile(l.kubeconfig, kubeconfig, 0o600); err != nil {
		return scene.Config{}, err
	}
	runtimeDir := filepath.Join(home, "run")
	if err := os.Mkdir(runtimeDir, 0o700); err != nil {
		return scene.Config{}, fmt.Errorf("make the user's runtime folder: %w", err)
	}
	laptop := place.Place{NetNS: l.laptopNet, Dir: home}
	if os.Geteuid() == 0 {
		laptop.User = &place.User{UID: l.uid, GID: l.uid}
		for _, path := range []string{home, kubeconfig, runtimeDir} {
			if err := os.Chown(path, l.uid, l.uid); err != nil {
				return scene.Config{}, fmt.Errorf("give the user a home: %w", err)
			}
		}
	}
	laptop.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "USER=bench", "LOGNAME=bench", "SHELL=/bin/sh", "LANG=C.UTF-8",
		"KUBECONFIG=" + kubeconfig,
		"XDG_RUNTIME_DIR=" + runtimeDir,
		"XDG_STATE_HOME=" + filepath.Join(home, "state"),
		"TELESWAP_RUNTIME_DIR=" + filepath.Join(runtimeDir, "teleswap"),
	}
	kubectl := l.kubectl
	if kubectl == "" {
		kubectl = "kubectl"
	}
	return scene.Config{
		Node: place.Place{NetNS: l.nodeNet}, Laptop: laptop,
		Kubectl: kubectl, Teleswap: l.teleswap, AgentImage: l.agentImage,
		Probe: l.probe, Image: l.probeImage,
		Namespace: fmt.Sprintf("%s%d", namespacePrefix, os.Getpid()),
		Port:      7000,
		Logger:    logger,
	}, nil
}

// facts are what the numbers depend on.
func facts(ctx context.Context, s *scene.Scene) []report.Fact {
	list := []report.Fact{
		{Name: "processors", Value: fmt.Sprintf("%d, %s", runtime.NumCPU(), processor())},
		{Name: "kernel", Value: kernel()},
		{Name: "load average before", Value: loadAverage()},
	}
	for _, tool := range []struct {
		name string
		argv []string
	}{
		{"teleswap", []string{s.Teleswap, "version"}},
		{"kubectl", []string{s.Kubectl, "version"}},
	} {
		out, err := place.Output(ctx, s.Laptop.Command(tool.argv...), "")
		if err != nil {
			out = []byte(err.Error())
		}
		list = append(list, report.Fact{Name: tool.name, Value: strings.Join(strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' }), ", ")})
	}
	return list
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err.Error()
	}
	return unix.ByteSliceToString(name.Release[:])
}

func loadAverage() string {
	average, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(average))[:3], " ")
}
