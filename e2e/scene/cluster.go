package scene

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// bringUp makes the embedded cluster run, or finds the user's own, and gives it the images.
func (l *Lab) bringUp(ctx context.Context) error {
	if own := os.Getenv(KubeconfigVariable); own != "" {
		prefix := os.Getenv(ImagesVariable)
		l.kubeconfig, l.laptopKubeconfig = own, own
		for name, ref := range l.Images.byName() {
			*ref = prefix + "/" + name + ":e2e"
		}
		return nil
	}
	// What `make cluster-up` runs.
	up := l.cluster(ctx, "up")
	up.Stdout, up.Stderr = l.log, l.log
	if err := up.Run(); err != nil {
		return fmt.Errorf("cluster up: %w", err)
	}
	s, err := l.clusterStatus(ctx)
	if err != nil {
		return err
	}
	l.kubeconfig, l.laptopKubeconfig, l.nodePID = s.Kubeconfig, s.KubeconfigLaptop, s.PID
	l.Kubectl, l.Containerd = s.Kubectl, fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", s.PID)
	l.laptopNet = filepath.Join("/var/run/netns", s.LaptopNetworkNamespace)
	return l.loadImages(ctx)
}

// cluster is a command of the embedded cluster's own driver.
func (l *Lab) cluster(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.Dir, "bin", "cluster"), args...)
	cmd.Dir = l.Root
	return cmd
}

// clusterStatus is an embedded cluster's own description.
type clusterStatus struct {
	State, Why, Kubeconfig, KubeconfigLaptop, LaptopNetworkNamespace, Kubectl string
	PID                                                                       int
}

// clusterStatus asks for that of the cluster that which names by the driver's flags. It must be up.
func (l *Lab) clusterStatus(ctx context.Context, which ...string) (s clusterStatus, err error) {
	out, err := l.cluster(ctx, append(which, "status", "-o", "json")...).Output()
	if err != nil {
		return s, fmt.Errorf("cluster status: %w", err)
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("decode the cluster's status: %w", err)
	}
	if s.State != "up" || s.Kubeconfig == "" || s.KubeconfigLaptop == "" || s.LaptopNetworkNamespace == "" {
		return s, fmt.Errorf("the cluster is not up, or does not say all: %s", out)
	}
	return s, nil
}

// loadImages puts the built programs into images of one layer, and the images into the
// node's container runtime.
func (l *Lab) loadImages(ctx context.Context) error {
	load := []string{"load-image"}
	for name, im := range map[string]struct{ entrypoint, files []string }{
		"agent":      {[]string{"/teleswap-agent"}, []string{l.Bin.Agent}},
		"slow-agent": {[]string{"/probe", "-wait", "2s", "/teleswap-agent"}, []string{l.Bin.Agent, l.Bin.Probe}},
		"probe":      {[]string{"/probe"}, []string{l.Bin.Probe}},
		"service-a":  {[]string{"/service-a"}, []string{l.Bin.ServiceA}},
		"service-b":  {[]string{"/service-b"}, []string{l.Bin.ServiceB}},
	} {
		ref, archive := "teleswap.dev/e2e-"+name+":dev", l.archive(name)
		args := []string{"image", "build", "--ref", ref, "--user", "65532:65532", "-o", archive}
		for _, arg := range im.entrypoint {
			args = append(args, "--entrypoint", arg)
		}
		for _, file := range im.files {
			args = append(args, "--file", file+":/"+filepath.Base(file)+":0755")
		}
		if err := runQuietly(l.cluster(ctx, args...)); err != nil {
			return fmt.Errorf("write image %s: %w", ref, err)
		}
		*l.Images.byName()[name] = ref
		load = append(load, archive)
	}
	if err := runQuietly(l.cluster(ctx, load...)); err != nil {
		return fmt.Errorf("load the images: %w", err)
	}
	return nil
}

// archive is the file of an image.
func (l *Lab) archive(image string) string { return filepath.Join(l.Dir, image+".tar") }

func (im *Images) byName() map[string]*string {
	return map[string]*string{
		"agent": &im.Agent, "slow-agent": &im.SlowAgent, "probe": &im.Probe, "service-a": &im.ServiceA, "service-b": &im.ServiceB,
	}
}
