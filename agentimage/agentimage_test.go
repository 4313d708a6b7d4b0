package agentimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func agents(t *testing.T) Agents {
	t.Helper()
	pack := func(text string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	all, err := read(fstest.MapFS{
		"carried/README.md":      {Data: []byte("not an agent")},
		"carried/linux-amd64.gz": {Data: pack("amd64's agent")},
		"carried/linux-arm64.gz": {Data: pack("arm64's agent")},
	}, "carried")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPlainBuildCarriesNone(t *testing.T) {
	if _, err := Carried(); !errors.Is(err, ErrNone) {
		t.Errorf("an agent without an overlay: %v", err)
	}
}

// agentIn is what an image's only file says, after a check of all around it.
func agentIn(t *testing.T, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(content)
	h, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	if h.Name != "teleswap-agent" || h.Mode != 0o755 {
		t.Errorf("the image has %s, mode %o", h.Name, h.Mode)
	}
	data, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := files.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more in the image than the agent: %v", err)
	}
	return string(data)
}

func TestArchive(t *testing.T) {
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := agents(t).Save(w, "teleswap/agent:v1", "linux/arm64"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same agent makes another archive each time")
	}
	// As a Docker of old reads it.
	tag, err := name.NewTag("docker.io/teleswap/agent:v1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(first.Bytes())), nil }, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if got := agentIn(t, img); got != "arm64's agent" {
		t.Errorf("the image has %q", got)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.OS != "linux" || config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/teleswap-agent" {
		t.Errorf("the image's configuration is %+v", config)
	}
	index := fileOf(t, first.Bytes(), "index.json")
	if !strings.Contains(index, `"io.containerd.image.name":"docker.io/teleswap/agent:v1"`) {
		t.Errorf("containerd does not find the name in %s", index)
	}
}

func fileOf(t *testing.T, archive []byte, file string) string {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("find %s: %v", file, err)
		}
		if h.Name == file {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
	}
}

func TestSaveRefuses(t *testing.T) {
	for _, c := range []struct{ ref, platform, want string }{
		{"UPPER/agent:1", "linux/amd64", "UPPER"},
		{"agent:1", "linux/s390x", "linux/amd64, linux/arm64"},
	} {
		if err := agents(t).Save(io.Discard, c.ref, c.platform); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v; want a word of %q", c.ref, c.platform, err, c.want)
		}
	}
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/agent:1"
	digest, err := agents(t).Push(t.Context(), ref, PushOptions{Keychain: authn.NewMultiKeychain()})
	if err != nil {
		t.Fatal(err)
	}
	at, err := name.NewDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	for arch, want := range map[string]string{"amd64": "amd64's agent", "arm64": "arm64's agent"} {
		img, err := remote.Image(at, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		if got := agentIn(t, img); got != want {
			t.Errorf("%s pulls %q", arch, got)
		}
	}
	server.Close()
	if _, err := agents(t).Push(t.Context(), ref, PushOptions{}); err == nil || !strings.Contains(err.Error(), "team/agent:1") {
		t.Errorf("a registry that is not there: %v", err)
	}
}
