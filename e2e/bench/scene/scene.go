// Package scene puts what is measured on a cluster: a namespace with the
// server and the targets, a process in the cluster's network, one on the
// laptop, `kubectl port-forward`, and swaps. It drives kubectl and the built
// teleswap, and imports nothing of either.
package scene

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"text/template"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/remote"
)

// Server is the server's deployment. PodName and LocalName tell who answers.
const (
	Server    = "bench-server"
	PodName   = "pod"
	LocalName = "local"
)

// Target is the deployment that a swap of the transport replaces.
func Target(transport string) string {
	if transport == "" {
		return "bench-target"
	}
	return "bench-target-" + transport
}

// Config says where everything is. All fields are needed, unless they say
// otherwise.
type Config struct {
	// Node is in the cluster's network: pod addresses are reached from there.
	Node place.Place
	// Laptop is where kubectl and teleswap run, by an ordinary user.
	Laptop place.Place
	// Kubectl is its command.
	Kubectl string
	// Teleswap is the command to measure. Empty leaves the swaps out.
	Teleswap string
	// AgentImage is passed to teleswap; empty leaves its default.
	AgentImage string
	// Probe is the path of the built e2e/bench/probe, Image that with it in
	// the cluster, at /probe.
	Probe, Image string
	Namespace    string
	// Port is what servers, targets and local processes listen on.
	Port uint16
	// Transports are those with a target of their own; the target of the
	// product's own choice is always there.
	Transports []string
	Logger     *slog.Logger
}

// Scene is a set-up Config. Its methods are not safe for concurrent use.
type Scene struct {
	Config
}

//go:embed manifest.yaml
var manifestText string

// New makes the namespace with the server and the targets, and waits until
// they are ready. Close removes the namespace, also after an error of New.
func New(ctx context.Context, config Config) (*Scene, error) {
	s := &Scene{config}
	manifest, err := s.manifest()
	if err != nil {
		return s, err
	}
	if _, err := s.kubectl(ctx, manifest, "apply", "-f", "-"); err != nil {
		return s, err
	}
	for _, name := range s.deployments() {
		if err := s.WaitAvailable(ctx, name); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *Scene) deployments() []string {
	names := []string{Server, Target(""), Work}
	for _, transport := range s.Transports {
		names = append(names, Target(transport))
	}
	return names
}

func (s *Scene) manifest() (string, error) {
	type deployment struct {
		Name, Namespace, Image string
		Replicas               int
		Port                   uint16
		Volume                 string // where a volume is mounted; "" for none
	}
	var list []deployment
	for _, name := range s.deployments() {
		volume := ""
		if name == Work {
			volume = VolumePath
		}
		list = append(list, deployment{name, s.Namespace, s.Image, 1, s.Port, volume})
	}
	// The target of the timed swaps has two replicas, as a service has in life.
	list[1].Replicas = 2
	parsed, err := template.New("manifest").Parse(manifestText)
	if err != nil {
		return "", fmt.Errorf("parse the bench's manifest: %w", err)
	}
	var b strings.Builder
	if err := parsed.Execute(&b, map[string]any{"Namespace": s.Namespace, "Deployments": list}); err != nil {
		return "", fmt.Errorf("fill in the bench's manifest: %w", err)
	}
	return b.String(), nil
}

// Namespaces lists those that scenes have made and not removed.
func Namespaces(ctx context.Context, config Config) ([]string, error) {
	s := &Scene{config}
	out, err := s.kubectl(ctx, "", "get", "namespaces", "-l", "teleswap.dev/bench", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}

// Close removes the namespace and waits until it is gone.
func (s *Scene) Close(ctx context.Context) error {
	_, err := s.kubectl(ctx, "", "delete", "namespace", s.Namespace, "--ignore-not-found", "--timeout=60s")
	return err
}

func (s *Scene) kubectl(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	return place.Output(ctx, s.Laptop.Command(append([]string{s.Kubectl}, args...)...), stdin)
}

// WaitAvailable waits until a deployment has all its replicas, and none of
// before.
func (s *Scene) WaitAvailable(ctx context.Context, deployment string) error {
	_, err := s.kubectl(ctx, "", "rollout", "status", "deployment/"+deployment, "-n", s.Namespace, "--timeout=90s")
	return err
}

// podList is the part of a list of pods that is read here.
type podList struct {
	Items []struct {
		Metadata struct {
			Name              string
			DeletionTimestamp *string
		}
		Status struct{ PodIP, Phase string }
	}
}

// pod finds the one running pod with the labels.
func (s *Scene) pod(ctx context.Context, selector string) (name string, address netip.AddrPort, err error) {
	out, err := s.kubectl(ctx, "", "get", "pods", "-n", s.Namespace, "-l", selector, "-o", "json")
	if err != nil {
		return "", netip.AddrPort{}, err
	}
	var pods podList
	if err := json.Unmarshal(out, &pods); err != nil {
		return "", netip.AddrPort{}, fmt.Errorf("read pods with %s: %w", selector, err)
	}
	for _, pod := range pods.Items {
		if pod.Status.Phase != "Running" || pod.Metadata.DeletionTimestamp != nil {
			continue
		}
		ip, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil {
			return "", netip.AddrPort{}, fmt.Errorf("read address of pod %s: %w", pod.Metadata.Name, err)
		}
		return pod.Metadata.Name, netip.AddrPortFrom(ip, s.Port), nil
	}
	return "", netip.AddrPort{}, fmt.Errorf("find a pod with %s: none runs", selector)
}

// ServerPod returns the server's pod and where it listens.
func (s *Scene) ServerPod(ctx context.Context) (name, address string, err error) {
	name, addr, err := s.pod(ctx, "app="+Server)
	return name, addr.String(), err
}

// ServiceAddress returns the virtual address of a deployment's Service.
func (s *Scene) ServiceAddress(ctx context.Context, deployment string) (string, error) {
	out, err := s.kubectl(ctx, "", "get", "service", deployment, "-n", s.Namespace, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(string(out), "80"), nil
}

// Peer is a running probe that measures on request. Close must be called.
type Peer struct {
	*remote.Probe
	Process *place.Process
}

// StartProbe runs a measuring probe in a place.
func (s *Scene) StartProbe(ctx context.Context, where place.Place) (*Peer, error) {
	process, err := place.Start(where.Command(s.Probe, "measure"))
	if err != nil {
		return nil, err
	}
	return s.greet(ctx, process)
}

// greet waits for the first line of a probe that the process is or starts.
func (s *Scene) greet(ctx context.Context, process *place.Process) (*Peer, error) {
	type greeting struct {
		probe *remote.Probe
		err   error
	}
	greeted := make(chan greeting, 1)
	go func() {
		probe, err := remote.NewProbe(process.Stdin, process.Stdout)
		greeted <- greeting{probe, err}
	}()
	select {
	case g := <-greeted:
		if g.err != nil {
			// Why is on its stderr, which is complete once it has ended.
			_ = process.Stop(stopPatience)
			return nil, errors.Join(g.err, process.Wait(ctx))
		}
		return &Peer{Probe: g.probe, Process: process}, nil
	case <-ctx.Done():
		err := process.Stop(stopPatience)
		<-greeted // its output has ended
		return nil, errors.Join(fmt.Errorf("wait for the probe: %w; stderr: %s", ctx.Err(), process.Stderr().Tail(10)), err)
	}
}

// stopPatience is long: a swap restores its target before it ends.
const stopPatience = 60 * time.Second

// Close ends the probe, and what it was started by.
func (p *Peer) Close() error { return p.Process.Stop(stopPatience) }
