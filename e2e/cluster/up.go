//go:build linux

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/e2e/cluster/build"
	"github.com/teleswap/teleswap/e2e/cluster/node"
)

// readyPatience is how long a step of the start may take on a busy machine.
const readyPatience = 3 * time.Minute

// start is one run of Up that makes a cluster.
type start struct {
	Names
	logger *slog.Logger
	built  string // folder of the programs
	record *Record
	node   *node.Config
	first  *Process // where process 1 of the node is noted: in record
	admin  *node.Kubeconfig
	api    *apiClient
	ended  <-chan error // process 1 has ended before its time
}

// Up makes the clone's cluster, or finds that it is there and well. One that is
// half made, broken, or of other programs than the clone has now is removed
// first.
func Up(ctx context.Context, n Names, logger *slog.Logger) error {
	unlock, err := n.lock(ctx, logger)
	if err != nil {
		return err
	}
	defer unlock()
	built, key, err := n.build(ctx, logger)
	if err != nil {
		return err
	}
	began := time.Now()
	there, err := n.traces()
	if err != nil {
		return err
	}
	if there {
		why := n.unfit(ctx, key)
		if why == nil {
			logger.Info("cluster is up", "kubeconfig", n.Kubeconfig())
			return nil
		}
		logger.Info("removing the cluster that is here, to make it anew", "because", why)
		if err := n.remove(logger); err != nil {
			return err
		}
	}
	if err := newStart(n, logger, built, key).run(ctx); err != nil {
		return err
	}
	logger.Info("cluster is up", "kubeconfig", n.Kubeconfig(), "seconds", fmt.Sprintf("%.1f", time.Since(began).Seconds()))
	return nil
}

func newStart(n Names, logger *slog.Logger, built, key string) *start {
	record := &Record{Clone: n.Clone, Name: n.Name, Phase: phaseStarting, Build: key, BootID: bootID()}
	return &start{Names: n, logger: logger, built: built, record: record, first: &record.Node}
}

func (n Names) build(ctx context.Context, logger *slog.Logger) (dir, key string, err error) {
	b, err := n.builder(logger)
	if err != nil {
		return "", "", err
	}
	dir, key, err = b.Ensure(ctx)
	return dir, fmt.Sprintf("%s/%d", key, node.Generation), err
}

func (n Names) builder(logger *slog.Logger) (*build.Builder, error) {
	owner, err := sudoUser()
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir(owner)
	if err != nil {
		return nil, err
	}
	return &build.Builder{Parts: filepath.Join(n.Clone, "e2e", "cluster", "parts"), Cache: cache, Owner: owner, Logger: logger}, nil
}

// run is the recipe. What fails is left as it is, logs included, for a look;
// the next run cleans it.
func (s *start) run(ctx context.Context) error {
	if err := s.take(ctx, s.steps()); err != nil {
		return fmt.Errorf("cluster-up: %w", err)
	}
	return nil
}

func (s *start) take(ctx context.Context, steps []step) error {
	for _, step := range steps {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		s.logger.Debug("done", "step", step.name, "milliseconds", time.Since(began).Milliseconds())
	}
	return nil
}

// step is a part of the start. None needs an undo of its own: names are derived,
// so Down takes away whatever there is.
type step struct {
	name string
	do   func(context.Context) error
}

func (s *start) steps() []step {
	return []step{
		{"record", s.writeRecord},
		{"devices", func(context.Context) error { return newDeviceBook(s.logger).acquire(s.ID) }},
		{"configuration", s.configure},
		{"network", s.createNetwork},
		{"cgroup", func(context.Context) error { return s.node.Group.Create() }},
		{"node", s.startNode},
		{"images", s.loadImages},
		{"api server", s.waitAPI},
		{"add-ons", s.applyAddOns},
		{"node ready", s.waitNode},
		{"dns", s.waitDNS},
		{"kubeconfig", s.publish},
	}
}

func (s *start) writeRecord(context.Context) error {
	if err := os.MkdirAll(s.Home, 0o755); err != nil {
		return fmt.Errorf("make the cluster's folder: %w", err)
	}
	port, err := freePort(s.WantPort)
	if err != nil {
		return err
	}
	s.record.HostPort = port
	return s.record.save(s.Names.record())
}

// freePort takes the wanted port of the machine's loopback if nobody has it:
// the same at every start, so that copies of the kubeconfig stay good.
func freePort(want int) (int, error) {
	var last error
	for _, port := range []int{want, 0} {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		defer func() { _ = l.Close() }()
		return l.Addr().(*net.TCPAddr).Port, nil
	}
	return 0, fmt.Errorf("find a free port for the API server: %w", last)
}

func (s *start) configure(context.Context) error {
	cfg, err := s.nodeConfig()
	if err != nil {
		return err
	}
	cfg.HostPort = s.record.HostPort
	if err := s.prepare(cfg); err != nil {
		return err
	}
	s.admin, err = cfg.WriteEtc(time.Now())
	return err
}

// prepare makes a node's folders, and completes its configuration by what this
// machine is like.
func (s *start) prepare(cfg *node.Config) (err error) {
	cfg.Bin, cfg.Images = filepath.Join(s.built, "bin"), filepath.Join(s.built, "images")
	for _, dir := range []string{cfg.Etc, cfg.Lib, cfg.Log} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a folder of the node: %w", err)
		}
	}
	if cfg.Snapshotter, err = snapshotter(cfg.Lib); err != nil {
		return err
	}
	if cfg.KeepOOM, err = lacksSysResource(); err != nil {
		return err
	}
	s.node = cfg
	return nil
}

// nodeConfig has what follows from the names.
func (n Names) nodeConfig() (*node.Config, error) {
	group, err := n.group()
	if err != nil {
		return nil, err
	}
	return &node.Config{
		Name: node.Name, Server: NodeIP,
		Group: group, NetNS: n.Node.File, IP: NodeIP, IP6: NodeIP6,
		Etc: n.etc(), Lib: n.lib(), Log: n.log(),
	}, nil
}

// snapshotter is overlayfs wherever the file system can carry one: an overlay
// cannot lie on another, which is what a container's root often is.
func snapshotter(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native", nil
	}
	return "overlayfs", nil
}

// lacksSysResource tells whether this machine withholds CAP_SYS_RESOURCE.
func lacksSysResource() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("look at this process's capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0, nil
}

// startNode starts process 1. It waits for its configuration, which it gets
// once it is recorded: if we die before, it ends by itself.
func (s *start) startNode(context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.node.Log, "node.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the node's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe to the node: %w", err)
	}
	defer func() { _ = write.Close() }()
	cmd := exec.Command("/proc/self/exe", node.StageArg)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.ExtraFiles = []*os.File{read}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: node.CloneFlags, Setsid: true}
	err = cmd.Start()
	_ = read.Close()
	if err != nil {
		return fmt.Errorf("start process 1: %w", err)
	}
	ended := make(chan error, 1)
	// Ends with process 1, or with this program: the node outlives it.
	go func() { ended <- cmd.Wait() }()
	s.ended = ended

	if *s.first, err = NewProcess(cmd.Process.Pid); err != nil {
		return s.nodeError(fmt.Errorf("process 1: %w", err))
	}
	if err := s.record.save(s.Names.record()); err != nil {
		return err
	}
	if err := json.NewEncoder(write).Encode(s.node); err != nil {
		return s.nodeError(fmt.Errorf("configure process 1: %w", err))
	}
	return nil
}

// nodeError adds what the node said last.
func (s *start) nodeError(err error) error {
	data, readErr := os.ReadFile(filepath.Join(s.node.Log, "node.log"))
	if readErr != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return fmt.Errorf("%w\n%s\n(logs: %s)", err, strings.Join(lines, "\n"), s.node.Log)
}

// poll tries until it works, the node ends, or patience does.
func (s *start) poll(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-s.ended:
			return s.nodeError(fmt.Errorf("the node has ended: %w", errors.Join(end, err)))
		case <-ctx.Done():
			return s.nodeError(fmt.Errorf("%s: %w (last: %w)", what, context.Cause(ctx), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// publish writes what the user reads, and with it calls the cluster up.
func (s *start) publish(context.Context) error {
	host := *s.admin
	host.Server = s.api.base
	for name, k := range map[string]*node.Kubeconfig{s.Kubeconfig(): &host, s.KubeconfigLaptop(): s.admin} {
		if err := writeAtomic(name, k.Bytes(), 0o600); err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
		if err := chownLike(name, s.Clone); err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
	}
	if err := s.linkKubectl(); err != nil {
		return fmt.Errorf("put kubectl into the clone: %w", err)
	}
	s.record.Phase = phaseUp
	return s.record.save(s.Names.record())
}

// linkKubectl puts kubectl at a place in the clone that users and tests know:
// as a second name of the same file, since the cache may be in a home that an
// ordinary user of the laptop cannot look into.
func (s *start) linkKubectl() error {
	dir := filepath.Dir(s.Kubectl())
	if err := mkdirLike(dir, s.Clone); err != nil {
		return err
	}
	if err := os.RemoveAll(s.Kubectl()); err != nil {
		return err
	}
	program := filepath.Join(s.built, "bin", "kube")
	if err := os.Link(program, s.Kubectl()); err == nil {
		return nil
	}
	return os.Symlink(filepath.Join(s.built, "bin", "kubectl"), s.Kubectl()) // another file system
}
