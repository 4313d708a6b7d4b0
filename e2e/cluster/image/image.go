// Package image writes container images from plain files: one layer, one
// configuration, in the docker-archive form that containerd, docker and podman
// import. It needs no daemon and no registry, and knows nothing of the cluster.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// File is one file of the machine that goes into the image.
type File struct {
	Source string      // path on this machine; symbolic links are followed
	Target string      // absolute path in the image
	Mode   os.FileMode // permission bits in the image; zero means those of Source
}

// Spec describes an image.
type Spec struct {
	Ref        string   // name and tag, for example teleswap.dev/greet-service-a:dev
	Entrypoint []string // at least one element: the runtime refuses to start an image without a command
	Cmd        []string
	User       string   // uid[:gid] or a name in the image's own /etc/passwd; empty means root
	Env        []string // KEY=VALUE
	Ports      []string // for example 8080/tcp; documentation only, as in a Dockerfile's EXPOSE
	WorkDir    string   // empty means /
	RootFS     string   // a folder or a tar laid down before Files; empty means none
	Files      []File
}

// ParseFile reads src:dst[:mode], the form of the command line. The mode is
// octal.
func ParseFile(s string) (File, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return File{}, fmt.Errorf("file %q: want src:dst or src:dst:mode", s)
	}
	f := File{Source: parts[0], Target: parts[1]}
	if !path.IsAbs(f.Target) {
		return File{}, fmt.Errorf("file %q: the path in the image must be absolute", s)
	}
	if len(parts) == 3 {
		mode, err := parseMode(parts[2])
		if err != nil {
			return File{}, fmt.Errorf("file %q: %w", s, err)
		}
		f.Mode = mode
	}
	return f, nil
}

func parseMode(s string) (os.FileMode, error) {
	var bits uint32
	if s == "" || len(s) > 5 {
		return 0, fmt.Errorf("mode %q: want octal permission bits", s)
	}
	for _, c := range s {
		if c < '0' || c > '7' {
			return 0, fmt.Errorf("mode %q: want octal permission bits", s)
		}
		bits = bits<<3 | uint32(c-'0')
	}
	if bits == 0 || bits > 0o7777 {
		return 0, fmt.Errorf("mode %q: out of range", s)
	}
	return os.FileMode(bits & 0o777), nil
}

// Validate says what is missing or wrong in the description.
func (s *Spec) Validate() error {
	switch {
	case s.Ref == "":
		return errors.New("image: no reference (name:tag)")
	case !strings.Contains(path.Base(s.Ref), ":"):
		return fmt.Errorf("image %q: no tag", s.Ref)
	case len(s.Entrypoint) == 0:
		return fmt.Errorf("image %s: no entrypoint", s.Ref)
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i <= 0 {
			return fmt.Errorf("image %s: environment %q: want KEY=VALUE", s.Ref, e)
		}
	}
	return nil
}

// Write writes the image as a docker-archive to w. The same input gives the
// same bytes: no time of day and no names of this machine's users go in.
func Write(w io.Writer, spec Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	layer, err := os.CreateTemp("", "teleswap-layer-*.tar")
	if err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	defer func() { _ = os.Remove(layer.Name()) }()
	defer func() { _ = layer.Close() }()

	hash := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, hash), &spec); err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	size, err := layer.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	if err := writeArchive(w, &spec, hex.EncodeToString(hash.Sum(nil)), layer, size); err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	return nil
}

// WriteFile writes the image to a file, atomically.
func WriteFile(name string, spec Spec) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := Write(tmp, spec); err != nil {
		_ = tmp.Close()
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		_ = tmp.Close()
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	return nil
}

// The image configuration: the fields of the OCI image specification
// (config.md) that a runtime reads.
type config struct {
	Created      time.Time    `json:"created"`
	Architecture string       `json:"architecture"`
	OS           string       `json:"os"`
	Config       configConfig `json:"config"`
	RootFS       configRootFS `json:"rootfs"`
}

type configConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
}

type configRootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// manifest is an entry of a docker-archive's manifest.json.
type manifest struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

func writeArchive(w io.Writer, spec *Spec, layerHash string, layer io.Reader, size int64) error {
	cfg := config{
		Created:      time.Unix(0, 0).UTC(),
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: configConfig{
			User:       spec.User,
			Env:        append([]string{defaultPath}, spec.Env...),
			Entrypoint: spec.Entrypoint,
			Cmd:        spec.Cmd,
			WorkingDir: spec.WorkDir,
		},
		RootFS: configRootFS{Type: "layers", DiffIDs: []string{"sha256:" + layerHash}},
	}
	for _, p := range spec.Ports {
		if cfg.Config.ExposedPorts == nil {
			cfg.Config.ExposedPorts = map[string]struct{}{}
		}
		cfg.Config.ExposedPorts[p] = struct{}{}
	}
	cfgJSON, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(cfgJSON)
	cfgName := hex.EncodeToString(sum[:]) + ".json"
	layerName := layerHash + "/layer.tar"
	manifestJSON, err := json.Marshal([]manifest{{Config: cfgName, RepoTags: []string{spec.Ref}, Layers: []string{layerName}}})
	if err != nil {
		return err
	}

	tw := tar.NewWriter(w)
	for _, part := range []struct {
		name string
		size int64
		from io.Reader
	}{
		{cfgName, int64(len(cfgJSON)), bytes.NewReader(cfgJSON)},
		{layerName, size, layer},
		{"manifest.json", int64(len(manifestJSON)), bytes.NewReader(manifestJSON)},
	} {
		if err := tw.WriteHeader(&tar.Header{Name: part.name, Mode: 0o644, Size: part.size, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := io.Copy(tw, part.from); err != nil {
			return err
		}
	}
	return tw.Close()
}

// defaultPath is what docker gives an image that names no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
