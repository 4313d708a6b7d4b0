//go:build linux

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/teleswap/teleswap/e2e/cluster/image"
	"github.com/teleswap/teleswap/e2e/cluster/node"
)

// LoadImages imports docker-archives into every node of the running cluster. When
// it returns, pods with imagePullPolicy IfNotPresent or Never find them.
func LoadImages(ctx context.Context, n Names, files []string) error {
	r, err := n.running()
	if err != nil {
		return err
	}
	nodes := []Process{r.Node}
	for _, w := range r.Workers {
		if w.Process.Alive() {
			nodes = append(nodes, w.Process)
		}
	}
	for _, p := range nodes {
		for _, f := range files {
			if err := loadImage(ctx, p, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *start) loadImages(ctx context.Context) error {
	if err := s.waitRuntime(ctx); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.built, "images", "*.tar"))
	if err != nil {
		return fmt.Errorf("find the cluster's images: %w", err)
	}
	for _, f := range files {
		if err := loadImage(ctx, *s.first, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *start) waitRuntime(ctx context.Context) error {
	return s.poll(ctx, "containerd does not answer", func(ctx context.Context) error {
		_, err := ctr(ctx, *s.first, nil, "version")
		return err
	})
}

// loadImage hands the archive over as a stream: the node does not see the
// machine's /run and /var/lib, where the file may be.
func loadImage(ctx context.Context, n Process, file string) error {
	refs, err := image.Refs(file)
	if err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	defer func() { _ = in.Close() }()
	if _, err := ctr(ctx, n, in, "images", "import", "-"); err != nil {
		return fmt.Errorf("load image %s: %w", file, err)
	}
	return waitManaged(ctx, n, refs, file)
}

// waitManaged waits until the part of containerd that the kubelet asks has seen
// the images: it hears of an import a moment later.
func waitManaged(ctx context.Context, n Process, names []string, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		out, err := ctr(ctx, n, nil, "images", "list", "--quiet", `labels."io.cri-containerd.image"==managed`)
		if err != nil {
			return fmt.Errorf("load image %s: %w", file, err)
		}
		have := strings.Fields(out)
		if !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(have, name) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("load image %s: the kubelet's runtime does not take up %v: %w", file, names, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ctrCommand(ctx context.Context, n Process, args ...string) (*exec.Cmd, error) {
	return inNode(ctx, n, append([]string{node.BinDir + "/ctr", "--address", node.ContainerdSocket, "--namespace", "k8s.io"}, args...)...)
}

// ctr runs containerd's own client in the node.
func ctr(ctx context.Context, n Process, stdin *os.File, args ...string) (string, error) {
	cmd, err := ctrCommand(ctx, n, args...)
	if err != nil {
		return "", err
	}
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", args[0], err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}
