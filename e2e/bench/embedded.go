package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/teleswap/teleswap/e2e/bench/place"
)

// The images on the embedded cluster.
const (
	probeRef = "teleswap.dev/bench-probe:dev"
	agentRef = "teleswap.dev/bench-agent:dev"
)

// embedded brings up the cluster of e2e/cluster, which stays, and gives it the
// images.
func (l *lab) embedded(ctx context.Context, stderr io.Writer, logger *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("the embedded cluster needs root: sudo make bench; or name a cluster of yours with -kubeconfig")
	}
	driver := filepath.Join(l.dir, "cluster")
	build := exec.CommandContext(ctx, "go", "build", "-o", driver, "./cmd/cluster")
	build.Dir = filepath.Join(l.root, "e2e", "cluster")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the cluster's driver: %w\n%s", err, out)
	}
	logger.Info("bringing up the cluster; the first time takes minutes")
	up := exec.CommandContext(ctx, driver, "up")
	up.Dir, up.Stdout, up.Stderr = l.root, stderr, stderr
	if err := up.Run(); err != nil {
		return fmt.Errorf("cluster up: %w", err)
	}
	if err := l.readStatus(ctx, driver); err != nil {
		return err
	}
	return l.loadImages(ctx, driver)
}

// readStatus takes over the cluster's own description where no flag says
// otherwise.
func (l *lab) readStatus(ctx context.Context, driver string) error {
	out, err := place.Output(ctx, place.Place{Dir: l.root}.Command(driver, "status", "-o", "json"), "")
	if err != nil {
		return fmt.Errorf("ask the cluster for its paths: %w", err)
	}
	var s struct{ KubeconfigLaptop, Kubectl, NodeNetworkNamespace, LaptopNetworkNamespace string }
	if err := json.Unmarshal(out, &s); err != nil {
		return fmt.Errorf("read the cluster's paths: %w", err)
	}
	if s.KubeconfigLaptop == "" || s.Kubectl == "" || s.NodeNetworkNamespace == "" || s.LaptopNetworkNamespace == "" {
		return fmt.Errorf("read the cluster's paths: not all are there: %s", out)
	}
	l.kubeconfig = s.KubeconfigLaptop
	if l.nodeNet == "" {
		l.nodeNet = filepath.Join("/var/run/netns", s.NodeNetworkNamespace)
	}
	if l.laptopNet == "" {
		l.laptopNet = filepath.Join("/var/run/netns", s.LaptopNetworkNamespace)
	}
	if l.kubectl == "" {
		// The clone may be where only its owner can look.
		l.kubectl = filepath.Join(l.dir, "kubectl")
		return copyFile(s.Kubectl, l.kubectl, 0o755)
	}
	return nil
}

// loadImages makes images of one static program each, and puts them on the
// node, where no flag names another.
func (l *lab) loadImages(ctx context.Context, driver string) error {
	load := []string{driver, "load-image"}
	for _, im := range []struct {
		name        *string
		ref, binary string
	}{
		{&l.probeImage, probeRef, l.probe},
		{&l.agentImage, agentRef, l.inRoot(l.agent)},
	} {
		if *im.name != "" {
			continue
		}
		*im.name = im.ref
		program := "/" + filepath.Base(im.binary)
		archive := filepath.Join(l.dir, filepath.Base(im.binary)+".tar")
		build := place.Place{Dir: l.root}.Command(driver, "image", "build", "--ref", im.ref, "--entrypoint", program,
			"--user", "65532:65532", "--file", im.binary+":"+program+":0755", "-o", archive)
		if _, err := place.Output(ctx, build, ""); err != nil {
			return fmt.Errorf("write image %s: %w", im.ref, err)
		}
		load = append(load, archive)
	}
	if len(load) == 2 {
		return nil
	}
	if _, err := place.Output(ctx, place.Place{Dir: l.root}.Command(load...), ""); err != nil {
		return fmt.Errorf("load the images: %w", err)
	}
	return nil
}
