//go:build linux

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/teleswap/teleswap/e2e/cluster/build"
	"github.com/teleswap/teleswap/e2e/cluster/cgroup"
	"github.com/teleswap/teleswap/e2e/cluster/netns"
	"github.com/teleswap/teleswap/e2e/cluster/node"
)

// Worker is a node that has joined the first. It is a set of namespaces of its own,
// wired to the first node, which routes between all.
type Worker struct {
	Name    string  `json:"name"`
	Index   int     `json:"index"` // 1 to maxWorkers; decides its addresses
	Process Process `json:"process"`
}

const (
	// maxWorkers is what node.PodCIDRs has room for.
	maxWorkers = 9
	// workerSide begins the names of the workers' network namespaces.
	workerSide = "node-"
	// wireGateway and wireWorker are the ends of every wire between two nodes, for IPv6.
	wireGateway, wireWorker = "fe80::1", "fe80::2"
)

// Taint keeps pods that do not tolerate it from a node.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// ParseTaint reads kubectl's way to write one: KEY[=VALUE]:EFFECT.
func ParseTaint(text string) (Taint, error) {
	what, effect, ok := strings.Cut(text, ":")
	key, value, _ := strings.Cut(what, "=")
	if !ok || key == "" || !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect) {
		return Taint{}, fmt.Errorf("taint %q: want KEY=VALUE:EFFECT, EFFECT being NoSchedule, PreferNoSchedule or NoExecute", text)
	}
	return Taint{Key: key, Value: value, Effect: effect}, nil
}

var workerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$`)

func validWorker(name string) bool { return name != node.Name && workerName.MatchString(name) }

func (n Names) workerSpace(name string) netns.Namespace { return space(n.ID, workerSide+name) }

func (n Names) workerHome(name string) string { return filepath.Join(n.Home, "nodes", name) }

// addrs are the worker's addresses, beside the first node's.
func (w *Worker) addrs() (four, six string) {
	next := func(text string) string {
		a := netip.MustParseAddr(text)
		for range w.Index {
			a = a.Next()
		}
		return a.String()
	}
	return next(NodeIP), next(NodeIP6)
}

// link is the first node's end of the wire.
func (w *Worker) link() string { return fmt.Sprintf("wire%d", w.Index) }

// group is the worker's cgroup: below the cluster's, so that it goes with it.
func (n Names) workerGroup(name string) (cgroup.Group, error) {
	g, err := n.group()
	g.Name = filepath.Join(g.Name, name)
	return g, err
}

// running is the record of a cluster that is up.
func (n Names) running() (*Record, error) {
	r, err := loadRecord(n.record())
	if err != nil {
		return nil, err
	}
	if r == nil || r.BootID != bootID() || !r.Node.Alive() {
		return nil, ErrNotUp
	}
	return r, nil
}

// NewNode is what a further node shall be.
type NewNode struct {
	Name   string
	Taints []Taint
	// Images are those of the first node's images that it gets; empty means all. What
	// LoadImages loads later all nodes get.
	Images []string
}

// AddNode makes a further node of the running cluster, or finds that it is there and
// well. What an attempt that failed has left is removed first.
func AddNode(ctx context.Context, n Names, logger *slog.Logger, want NewNode) error {
	name := want.Name
	if !validWorker(name) {
		return fmt.Errorf("a node's name %q: want a few of a-z, 0-9 and -, and not %s, which is the first node's", name, node.Name)
	}
	return n.change(ctx, logger, func(s *start) error { return s.addNode(ctx, want) })
}

// change calls do with the running cluster, under its lock.
func (n Names) change(ctx context.Context, logger *slog.Logger, do func(*start) error) error {
	unlock, err := n.lock(ctx, logger)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := n.running()
	if err != nil {
		return err
	}
	return do(&start{Names: n, logger: logger, record: r})
}

func (s *start) addNode(ctx context.Context, want NewNode) error {
	r, logger, name := s.record, s.logger, want.Name
	if r.Phase != phaseUp {
		return ErrNotUp
	}
	began := time.Now()
	if err := s.askAsAdmin(); err != nil {
		return err
	}
	if old := r.worker(name); old != nil {
		if old.Process.Alive() && s.api.nodeReady(ctx, name) == nil {
			logger.Info("the node is up", "node", name)
			return nil
		}
		logger.Info("removing what is left of the node, to make it anew", "node", name)
		if err := s.removeWorker(ctx, old); err != nil {
			return err
		}
	}
	w, err := r.newWorker(name)
	if err != nil {
		return err
	}
	if err := s.join(ctx, w, want); err != nil {
		return fmt.Errorf("add node %s: %w", name, err)
	}
	logger.Info("the node is up", "node", name, "seconds", fmt.Sprintf("%.1f", time.Since(began).Seconds()))
	return nil
}

// RemoveNode takes a further node away, with the pods on it. One that is not there is
// no error.
func RemoveNode(ctx context.Context, n Names, logger *slog.Logger, name string) error {
	return n.change(ctx, logger, func(s *start) error {
		w := s.record.worker(name)
		if w == nil {
			logger.Info("no such node was added", "node", name)
			return nil
		}
		if err := s.askAsAdmin(); err != nil {
			return err
		}
		return s.removeWorker(ctx, w)
	})
}

func (r *Record) worker(name string) *Worker {
	for _, w := range r.Workers {
		if w.Name == name {
			return w
		}
	}
	return nil
}

func (r *Record) newWorker(name string) (*Worker, error) {
	for index := 1; index <= maxWorkers; index++ {
		if !slices.ContainsFunc(r.Workers, func(w *Worker) bool { return w.Index == index }) {
			w := &Worker{Name: name, Index: index}
			r.Workers = append(r.Workers, w)
			return w, nil
		}
	}
	return nil, fmt.Errorf("add node %s: the cluster has %d further nodes already, and room for no more", name, maxWorkers)
}

func (s *start) askAsAdmin() error {
	cfg, err := s.nodeConfig()
	if err != nil {
		return err
	}
	if s.admin, err = cfg.ReadAdmin(); err != nil {
		return err
	}
	s.api, err = newAPIClient(s.admin, s.record.HostPort)
	return err
}

// join is the recipe. As with Up, what fails is left for a look, and cleaned by the
// next run.
func (s *start) join(ctx context.Context, w *Worker, want NewNode) error {
	b, err := s.builder(s.logger)
	if err != nil {
		return err
	}
	if s.built, _, err = b.Ensure(ctx); err != nil {
		return err
	}
	return s.take(ctx, s.joinSteps(w, want))
}

func (s *start) joinSteps(w *Worker, want NewNode) []step {
	s.first = &w.Process
	return []step{
		{"record", func(context.Context) error { return s.record.save(s.Names.record()) }},
		{"configuration", func(context.Context) error { return s.configureWorker(w) }},
		{"network", func(ctx context.Context) error { return s.wire(ctx, w) }},
		{"cgroup", func(context.Context) error { return s.node.Group.Create() }},
		{"object", func(ctx context.Context) error { return s.createNode(ctx, w, want.Taints) }},
		{"node", s.startNode},
		{"images", func(ctx context.Context) error { return s.copyImages(ctx, want.Images) }},
		{"node ready", s.waitNode},
	}
}

func (s *start) configureWorker(w *Worker) error {
	group, err := s.workerGroup(w.Name)
	if err != nil {
		return err
	}
	home := s.workerHome(w.Name)
	four, six := w.addrs()
	cfg := &node.Config{
		Name: w.Name, Index: w.Index, Server: NodeIP,
		Group: group, NetNS: s.workerSpace(w.Name).File, IP: four, IP6: six,
		Etc: filepath.Join(home, "etc"), Lib: filepath.Join(home, "lib"), Log: filepath.Join(home, "log"),
	}
	if err := s.prepare(cfg); err != nil {
		return err
	}
	return cfg.WriteWorkerEtc(s.etc())
}

// wire joins the worker's network namespace to the first node's, which routes between
// its pods, those of the other workers, and the laptop.
func (s *start) wire(ctx context.Context, w *Worker) error {
	own := s.workerSpace(w.Name)
	if err := own.Create(); err != nil {
		return err
	}
	four, six := w.addrs()
	pods, pods6 := node.PodCIDRs(w.Index)
	link := w.link()
	hub := []string{
		"link add " + link + " type veth peer name eth0 netns " + own.Name,
		"addr add " + wireGateway + "/64 dev " + link + " nodad",
		"link set " + link + " up",
		"route add " + four + " dev " + link + " src " + NodeIP,
		"route add " + pods + " via " + four + " dev " + link + " onlink src " + NodeIP,
		"route add " + six + " via " + wireWorker + " dev " + link + " src " + NodeIP6,
		"route add " + pods6 + " via " + wireWorker + " dev " + link + " src " + NodeIP6,
		// The laptop, which believes all nodes to be on its own wire.
		"neigh add proxy " + four + " dev " + node.LaptopLink,
	}
	spoke := []string{
		"link set lo up",
		"addr add " + four + " dev eth0",
		"addr add " + six + " dev eth0 nodad",
		"addr add " + wireWorker + "/64 dev eth0 nodad",
		"link set eth0 up",
		"route add " + NodeIP + " dev eth0 src " + four,
		"route add " + network(LaptopIP+wireBits) + " via " + NodeIP + " dev eth0 src " + four,
		"route add " + node.ServiceCIDR + " via " + NodeIP + " dev eth0 src " + four,
		"route add " + network(NodeIP6+wireBits6) + " via " + wireGateway + " dev eth0 src " + six,
		"route add " + node.ServiceCIDR6 + " via " + wireGateway + " dev eth0 src " + six,
	}
	// Not the whole range of pods: an address that no pod has is unreachable at once.
	for index := range maxWorkers + 1 {
		if other, other6 := node.PodCIDRs(index); index != w.Index {
			spoke = append(spoke,
				"route add "+other+" via "+NodeIP+" dev eth0 src "+four,
				"route add "+other6+" via "+wireGateway+" dev eth0 src "+six)
		}
	}
	if err := ip(ctx, s.Node, hub); err != nil {
		return err
	}
	return ip(ctx, own, spoke)
}

// network is the range that an address with its prefix's length is in.
func network(address string) string { return netip.MustParsePrefix(address).Masked().String() }

// createNode makes the node's object before its kubelet does, with the ranges of pods
// that the routes are for.
func (s *start) createNode(ctx context.Context, w *Worker, taints []Taint) error {
	four, six := node.PodCIDRs(w.Index)
	object, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": w.Name},
		"spec":     map[string]any{"podCIDR": four, "podCIDRs": []string{four, six}, "taints": taints},
	})
	if err != nil {
		return err
	}
	return s.kubectl(ctx, object, "create", "-f", "-")
}

// kubectl runs the cluster's own, as administrator.
func (n Names) kubectl(ctx context.Context, stdin []byte, args ...string) error {
	cmd := exec.CommandContext(ctx, n.Kubectl(), append([]string{"--kubeconfig=" + n.Kubeconfig()}, args...)...)
	cmd.Env = append(os.Environ(), "KUBERC=off", "KUBECACHEDIR="+filepath.Join(n.Home, "kubectl"))
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// copyImages gives the worker images that the first node has: all, or those wanted and
// the one without which there is no pod.
func (s *start) copyImages(ctx context.Context, wanted []string) error {
	if err := s.waitRuntime(ctx); err != nil {
		return err
	}
	out, err := ctr(ctx, s.record.Node, nil, "images", "list", "--quiet")
	if err != nil {
		return err
	}
	// The kubelet's runtime has further names for each, by digest.
	names := slices.DeleteFunc(strings.Fields(out), func(name string) bool {
		return strings.HasPrefix(name, "sha256:") || strings.Contains(name, "@sha256:") ||
			len(wanted) > 0 && name != build.PauseRef && !slices.Contains(wanted, name)
	})
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("the first node has no image %s: load it there (load-image), or leave it out", name)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("copy images: %w", err)
	}
	defer func() { _ = read.Close() }()
	from, err := ctrCommand(ctx, s.record.Node, append([]string{"images", "export", "--local", "-"}, names...)...)
	if err != nil {
		return errors.Join(err, write.Close())
	}
	var said strings.Builder
	from.Stdout, from.Stderr = write, &said
	err = from.Start()
	_ = write.Close()
	if err != nil {
		return fmt.Errorf("copy images: %w", err)
	}
	_, err = ctr(ctx, *s.first, read, "images", "import", "-")
	_ = read.Close() // or the other side would wait for a reader
	if end := from.Wait(); end != nil {
		err = errors.Join(fmt.Errorf("ctr images export: %w: %s", end, strings.TrimSpace(said.String())), err)
	}
	if err != nil {
		return fmt.Errorf("copy images: %w", err)
	}
	return waitManaged(ctx, *s.first, names, "copied from the first node")
}

// removeWorker takes a worker away, whole or half made, in the order in which nothing
// comes back.
func (s *start) removeWorker(ctx context.Context, w *Worker) error {
	group, err := s.workerGroup(w.Name)
	if err != nil {
		return err
	}
	own := s.workerSpace(w.Name)
	four, _ := w.addrs()
	steps := []step{
		{"process", func(context.Context) error { return w.Process.Kill(killPatience) }},
		{"cgroup", func(context.Context) error { return group.Remove(killPatience) }},
		{"object", func(ctx context.Context) error {
			return s.kubectl(ctx, nil, "delete", "node", w.Name, "--ignore-not-found")
		}},
		{"pods", func(ctx context.Context) error {
			// Nobody is there to say that they have ended.
			return s.kubectl(ctx, nil, "delete", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+w.Name, "--force", "--grace-period=0")
		}},
		{"network", func(ctx context.Context) error {
			// The namespace's end would take the wire along, but some time later.
			cmd := exec.CommandContext(ctx, "ip", "-n", s.Node.Name, "-force", "-batch", "-")
			cmd.Stdin = strings.NewReader("link del " + w.link() + "\nneigh del proxy " + four + " dev " + node.LaptopLink + "\n")
			_ = cmd.Run() // one that was not made yet is no error
			return errors.Join(endMembers(own, ancestors()), own.Delete())
		}},
		{"files", func(context.Context) error { return os.RemoveAll(s.workerHome(w.Name)) }},
		{"record", func(context.Context) error {
			s.record.Workers = slices.DeleteFunc(s.record.Workers, func(other *Worker) bool { return other.Name == w.Name })
			return s.record.save(s.Names.record())
		}},
	}
	if err := s.take(ctx, steps); err != nil {
		return fmt.Errorf("remove node %s: %w", w.Name, err)
	}
	return nil
}
