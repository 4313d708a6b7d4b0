package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func entries(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
}

func program(t *testing.T) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(p, []byte("binary"), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWrite(t *testing.T) {
	spec := Spec{
		Ref: "teleswap.dev/x:dev", Entrypoint: []string{"/opt/x/run", "-a"}, User: "65532",
		Env: []string{"A=b"}, Ports: []string{"8080/tcp"}, WorkDir: "/opt",
		Files: []File{{Source: program(t), Target: "/opt/x/run", Mode: 0o755}},
	}
	var first, second bytes.Buffer
	if err := Write(&first, spec); err != nil {
		t.Fatal(err)
	}
	if err := Write(&second, spec); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image twice: different bytes")
	}

	archive := entries(t, &first)
	var list []manifest
	if err := json.Unmarshal(archive["manifest.json"], &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || !slices.Equal(list[0].RepoTags, []string{spec.Ref}) || len(list[0].Layers) != 1 {
		t.Fatalf("manifest: got %+v", list)
	}
	var cfg config
	if err := json.Unmarshal(archive[list[0].Config], &cfg); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Config.Entrypoint, spec.Entrypoint) || cfg.Config.User != "65532" || cfg.Config.WorkingDir != "/opt" {
		t.Errorf("config: got %+v", cfg.Config)
	}
	if want := []string{defaultPath, "A=b"}; !slices.Equal(cfg.Config.Env, want) {
		t.Errorf("environment: got %v, want %v", cfg.Config.Env, want)
	}
	if _, ok := cfg.Config.ExposedPorts["8080/tcp"]; !ok {
		t.Errorf("ports: got %v", cfg.Config.ExposedPorts)
	}
	layer := archive[list[0].Layers[0]]
	sum := sha256.Sum256(layer)
	if want := []string{"sha256:" + hex.EncodeToString(sum[:])}; !slices.Equal(cfg.RootFS.DiffIDs, want) {
		t.Errorf("layer's hash: got %v, want %v", cfg.RootFS.DiffIDs, want)
	}
	files := entries(t, bytes.NewReader(layer))
	if got := string(files["opt/x/run"]); got != "binary" {
		t.Errorf("program: got %q", got)
	}
	for _, dir := range []string{"opt/", "opt/x/", "tmp/"} {
		if _, ok := files[dir]; !ok {
			t.Errorf("no folder %s in %v", dir, slices.Sorted(maps.Keys(files)))
		}
	}
}

func TestWriteRootFS(t *testing.T) {
	root := t.TempDir()
	for name, data := range map[string]string{"etc/app.conf": "x=1", "usr/bin/app": "app"} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/bin", filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Ref: "x:1", Entrypoint: []string{"/x"}, RootFS: root}
	check := func(t *testing.T) []byte {
		var out bytes.Buffer
		if err := Write(&out, spec); err != nil {
			t.Fatal(err)
		}
		for name, data := range entries(t, &out) {
			if !strings.HasSuffix(name, "/layer.tar") {
				continue
			}
			files := entries(t, bytes.NewReader(data))
			if string(files["etc/app.conf"]) != "x=1" || string(files["usr/bin/app"]) != "app" {
				t.Errorf("files: got %v", slices.Sorted(maps.Keys(files)))
			}
			if _, ok := files["bin"]; !ok {
				t.Error("the symbolic link is missing")
			}
			return data
		}
		t.Fatal("no layer")
		return nil
	}
	layer := check(t)
	t.Run("from a tar", func(t *testing.T) {
		spec.RootFS = filepath.Join(t.TempDir(), "root.tar")
		if err := os.WriteFile(spec.RootFS, layer, 0o644); err != nil {
			t.Fatal(err)
		}
		check(t)
	})
}

func TestWriteRefuses(t *testing.T) {
	ok := Spec{Ref: "x:1", Entrypoint: []string{"/x"}}
	for _, tt := range []struct {
		name   string
		change func(*Spec)
		want   string
	}{
		{"no reference", func(s *Spec) { s.Ref = "" }, "no reference"},
		{"no tag", func(s *Spec) { s.Ref = "host:5000/x" }, "no tag"},
		{"no entrypoint", func(s *Spec) { s.Entrypoint = nil }, "no entrypoint"},
		{"bad environment", func(s *Spec) { s.Env = []string{"=x"} }, "KEY=VALUE"},
		{"missing file", func(s *Spec) { s.Files = []File{{Source: "/nonexistent", Target: "/x"}} }, "no such file"},
		{"a folder for a file", func(s *Spec) { s.Files = []File{{Source: "/", Target: "/x"}} }, "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := ok
			tt.change(&spec)
			if err := Write(io.Discard, spec); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestWriteFileLeavesNothingOnFailure(t *testing.T) {
	dir := t.TempDir()
	if err := WriteFile(filepath.Join(dir, "x.tar"), Spec{}); err == nil {
		t.Fatal("got no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v, want nothing left", left, err)
	}
}

func TestRefs(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.tar")
	if err := WriteFile(name, Spec{Ref: "nginx:1", Entrypoint: []string{"/x"}}); err != nil {
		t.Fatal(err)
	}
	got, err := Refs(name)
	if want := []string{"docker.io/library/nginx:1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := readRefs(strings.NewReader("no tar at all")); err == nil || !strings.Contains(err.Error(), "not a docker-archive") {
		t.Errorf("no tar: got %v", err)
	}
}

func TestFullRef(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx:1":               "docker.io/library/nginx:1",
		"team/app:1":            "docker.io/team/app:1",
		"teleswap.dev/pause:1":  "teleswap.dev/pause:1",
		"localhost/x:1":         "localhost/x:1",
		"registry:5000/x:1":     "registry:5000/x:1",
		"quay.io/team/deep/x:1": "quay.io/team/deep/x:1",
	} {
		if got := FullRef(ref); got != want {
			t.Errorf("FullRef(%q): got %q, want %q", ref, got, want)
		}
	}
}

func TestParseFile(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want File
		bad  bool
	}{
		{in: "a:/b", want: File{Source: "a", Target: "/b"}},
		{in: "./a:/b/c:755", want: File{Source: "./a", Target: "/b/c", Mode: 0o755}},
		{in: "a:/b:0644", want: File{Source: "a", Target: "/b", Mode: 0o644}},
		{in: "a", bad: true},
		{in: ":/b", bad: true},
		{in: "a:", bad: true},
		{in: "a:b", bad: true},
		{in: "a:/b:", bad: true},
		{in: "a:/b:888", bad: true},
		{in: "a:/b:0", bad: true},
		{in: "a:/b:755:x", bad: true},
	} {
		got, err := ParseFile(tt.in)
		if (err != nil) != tt.bad || !tt.bad && got != tt.want {
			t.Errorf("ParseFile(%q): got %+v, %v", tt.in, got, err)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add("a:/b:755")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseFile(s)
		if err == nil && (got.Source == "" || !strings.HasPrefix(got.Target, "/") || got.Mode > 0o777) {
			t.Errorf("ParseFile(%q): got %+v", s, got)
		}
	})
}

func FuzzReadRefs(f *testing.F) {
	var good bytes.Buffer
	if err := Write(&good, Spec{Ref: "x:1", Entrypoint: []string{"/x"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		refs, err := readRefs(bytes.NewReader(data))
		if err == nil && len(refs) == 0 {
			t.Error("neither names nor an error")
		}
	})
}

// Whatever a path says, its entry lies inside the image.
func FuzzInside(f *testing.F) {
	f.Add("/../../etc/passwd")
	f.Fuzz(func(t *testing.T, p string) {
		got := inside(p)
		if strings.HasPrefix(got, "/") || got == ".." || strings.HasPrefix(got, "../") {
			t.Errorf("inside(%q): got %q", p, got)
		}
	})
}
