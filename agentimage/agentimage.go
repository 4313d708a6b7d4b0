// Package agentimage makes the agent's container image out of the agent that the command line carries in itself, so that a
// cluster can have it without a public registry: as an archive, or pushed into any registry. It knows no cluster.
//
// The formats are those of the OCI image specification: https://github.com/opencontainers/image-spec.
package agentimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

//go:embed carried
var carried embed.FS

// ErrNone is returned by a program that carries no agent.
var ErrNone = errors.New("this teleswap carries no agent: it was not built by `make build`")

const (
	program = "teleswap-agent"
	// user is who the agent runs as where the pod does not say: nobody in particular, not root.
	user = "65532:65532"
)

// Agents are binaries of the agent by platform, "linux/amd64"; each is compressed by gzip.
type Agents map[string][]byte

// Carried are the agents in this program; ErrNone if there are none.
func Carried() (Agents, error) { return read(carried, "carried") }

func read(fsys fs.FS, dir string) (Agents, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read the agents that this program carries: %w", err)
	}
	agents := make(Agents)
	for _, e := range entries {
		platform, found := strings.CutSuffix(e.Name(), ".gz")
		if !found {
			continue
		}
		data, err := fs.ReadFile(fsys, path.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the agents that this program carries: %w", err)
		}
		agents[strings.Replace(platform, "-", "/", 1)] = data
	}
	if len(agents) == 0 {
		return nil, ErrNone
	}
	return agents, nil
}

// Platforms are those that there is an agent for, in order.
func (a Agents) Platforms() []string {
	var all []string
	for p := range a {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// Image is the image for one platform: the agent, and nothing else. The same agent makes the same image, to the byte.
func (a Agents) Image(platform string) (v1.Image, error) {
	packed, found := a[platform]
	if !found {
		return nil, fmt.Errorf("there is no agent for %q here; the platforms are %s", platform, strings.Join(a.Platforms(), ", "))
	}
	content, err := layer(packed)
	if err != nil {
		return nil, fmt.Errorf("unpack the agent for %s: %w", platform, err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	files, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make the image's layer: %w", err)
	}
	img, err := mutate.AppendLayers(base, files)
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, _ = strings.Cut(platform, "/")
	config.Config.Entrypoint, config.Config.User = []string{"/" + program}, user
	return mutate.ConfigFile(img, config)
}

// Index is one image for all platforms.
func (a Agents) Index() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range a.Platforms() {
		img, err := a.Image(platform)
		if err != nil {
			return nil, err
		}
		system, arch, _ := strings.Cut(platform, "/")
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: system, Architecture: arch}},
		})
	}
	return index, nil
}

// layer is a tar of the one file.
func layer(packed []byte) ([]byte, error) {
	unzip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	binary, err := io.ReadAll(unzip)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = w.WriteHeader(&tar.Header{
		Name: program, Mode: 0o755, Size: int64(len(binary)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err == nil {
		_, err = w.Write(binary)
	}
	return b.Bytes(), errors.Join(err, w.Close())
}
