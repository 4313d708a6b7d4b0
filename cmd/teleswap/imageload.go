package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// loader is a tool that puts an archive's image into a cluster's nodes.
type loader struct {
	name string // the cluster, for people
	argv []string
}

// archive stands in a loader's argv for the file.
const archive = "\x00archive"

// chooseLoader finds the tool for a cluster by its context's name, as the tools themselves give it, or for a containerd's
// socket.
func chooseLoader(cluster, socket string) (loader, error) {
	if socket != "" {
		return loader{"the containerd at " + socket, []string{"ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive}}, nil
	}
	kind, isKind := strings.CutPrefix(cluster, "kind-")
	k3d, isK3d := strings.CutPrefix(cluster, "k3d-")
	switch {
	case isKind:
		return loader{"kind cluster " + kind, []string{"kind", "load", "image-archive", archive, "--name", kind}}, nil
	case isK3d:
		return loader{"k3d cluster " + k3d, []string{"k3d", "image", "import", archive, "--cluster", k3d}}, nil
	case cluster == "minikube":
		return loader{"minikube", []string{"minikube", "image", "load", archive}}, nil
	case cluster == "docker", cluster == "docker-desktop", cluster == "rancher-desktop", cluster == "orbstack":
		return loader{"docker", []string{"docker", "load", "--input", archive}}, nil
	}
	return loader{}, usage("%s is not known to be a local cluster: say which by --into kind-NAME, k3d-NAME, minikube or docker, or by --containerd SOCKET;\n"+
		"any other cluster can pull it from a registry: `teleswap image push`", contextText(cluster))
}

func contextText(name string) string {
	if name == "" {
		return "the cluster (there is no current context)"
	}
	return fmt.Sprintf("context %q", name)
}

// run loads the archive. What the tool says goes to out if it fails.
func (l loader) run(ctx context.Context, file string, out io.Writer) error {
	argv := make([]string, 0, len(l.argv))
	for _, arg := range l.argv {
		if arg == archive {
			arg = file
		}
		argv = append(argv, arg)
	}
	said, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s is not in your PATH, and only it can load an image into %s;\n"+
			"otherwise: `teleswap image save agent.tar`, and load that file by other means", argv[0], l.name)
	case err != nil:
		_, _ = out.Write(said)
		return fmt.Errorf("%s: %w", strings.Join(argv[:min(4, len(argv))], " "), err)
	}
	return nil
}
