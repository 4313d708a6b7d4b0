package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxManifest bounds an archive's list of images.
const maxManifest = 1 << 20

// Refs lists the images of a docker-archive by the full names that a container
// runtime files them under.
func Refs(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	defer func() { _ = f.Close() }()
	refs, err := readRefs(f)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", name, err)
	}
	return refs, nil
}

func readRefs(r io.Reader) ([]string, error) {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("not a docker-archive: no manifest.json in it")
		}
		if err != nil {
			return nil, fmt.Errorf("not a docker-archive: %w", err)
		}
		if h.Name != "manifest.json" {
			continue
		}
		var list []manifest
		if err := json.NewDecoder(io.LimitReader(tr, maxManifest)).Decode(&list); err != nil {
			return nil, fmt.Errorf("manifest.json: %w", err)
		}
		var refs []string
		for _, m := range list {
			for _, tag := range m.RepoTags {
				refs = append(refs, FullRef(tag))
			}
		}
		if len(refs) == 0 {
			return nil, errors.New("the image has no name (docker save NAME, not its id)")
		}
		return refs, nil
	}
}

// FullRef adds what Docker leaves out of a name: nginx:1 is
// docker.io/library/nginx:1.
func FullRef(ref string) string {
	domain, rest, found := strings.Cut(ref, "/")
	switch {
	case !found:
		return "docker.io/library/" + ref
	case strings.ContainsAny(domain, ".:") || domain == "localhost":
		return ref
	default:
		return "docker.io/" + domain + "/" + rest
	}
}
