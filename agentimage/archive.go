package agentimage

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerManifest is an entry of manifest.json, by which a Docker before 25.0 finds its way in an archive:
// https://github.com/moby/docker-image-spec/blob/main/spec.md.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Save writes the image for one platform as an OCI archive (an image layout in a tar) under the name ref. It holds Docker's
// table of contents, too, so that whatever loads an image from a file takes it: docker, podman, ctr, kind, minikube, k3d.
func (a Agents) Save(w io.Writer, ref, platform string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("the image's name: %w", err)
	}
	img, err := a.Image(platform)
	if err != nil {
		return err
	}
	if err := writeArchive(w, img, tag); err != nil {
		return fmt.Errorf("write the image's archive: %w", err)
	}
	return nil
}

func writeArchive(w io.Writer, img v1.Image, tag name.Tag) error {
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	t := &tarWriter{w: tar.NewWriter(w)}
	t.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"})
	t.json("index.json", v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: manifest.MediaType, Size: int64(len(raw)), Digest: digest,
			Annotations: map[string]string{
				"io.containerd.image.name":          fullName(tag),
				"org.opencontainers.image.ref.name": tag.TagStr(),
			},
		}},
	})
	t.blob(digest, raw)
	t.blob(manifest.Config.Digest, config)
	docker := dockerManifest{Config: blobName(manifest.Config.Digest), RepoTags: []string{fullName(tag)}}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		t.blob(manifest.Layers[i].Digest, data)
		docker.Layers = append(docker.Layers, blobName(manifest.Layers[i].Digest))
	}
	t.json("manifest.json", []dockerManifest{docker})
	if t.err != nil {
		return t.err
	}
	return t.w.Close()
}

// fullName is the name by which container runtimes know an image; the library names Docker Hub by the host that it speaks to.
func fullName(tag name.Tag) string {
	if rest, hub := strings.CutPrefix(tag.Name(), name.DefaultRegistry+"/"); hub {
		return "docker.io/" + rest
	}
	return tag.Name()
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// tarWriter keeps the first error.
type tarWriter struct {
	w   *tar.Writer
	err error
}

func (t *tarWriter) blob(h v1.Hash, data []byte) { t.file(blobName(h), data) }

func (t *tarWriter) json(file string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		t.err = err
	}
	t.file(file, data)
}

func (t *tarWriter) file(file string, data []byte) {
	if t.err != nil {
		return
	}
	t.err = t.w.WriteHeader(&tar.Header{
		Name: file, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if t.err == nil {
		_, t.err = t.w.Write(data)
	}
}
