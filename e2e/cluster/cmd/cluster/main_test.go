//go:build linux

package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/cluster/image"
)

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   string // on stderr
	}{
		{"nothing", nil, 2, "usage: cluster"},
		{"help", []string{"--help"}, 0, "usage: cluster"},
		{"no such verb", []string{"jump"}, 2, `no command "jump"`},
		{"no such flag", []string{"--jump"}, 2, "usage: cluster"},
		{"no such clone", []string{"--clone", "/nonexistent", "status"}, 1, "/nonexistent"},
		{"bad name", []string{"--name", "a/b", "status"}, 1, `a cluster's name "a/b"`},
		{"no image verb", []string{"image"}, 2, "usage: cluster image build"},
		{"no images", []string{"load-image"}, 2, "usage: cluster"},
		{"image without output", []string{"image", "build", "--ref", "x:1"}, 1, "-o FILE"},
		{"image without entrypoint", []string{"image", "build", "--ref", "x:1", "-o", "/nonexistent/x"}, 1, "x"},
		{"two trees", []string{"image", "build", "--rootfs", "/x", "--package", "y", "-o", "/nonexistent/x"}, 1, "exclude one another"},
		{"bad file", []string{"image", "build", "--file", "a"}, 2, "src:dst"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if got := run(tt.args, &stdout, &stderr); got != tt.status {
				t.Errorf("status: got %d, want %d", got, tt.status)
			}
			if !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("stderr: got %s, want %q in it", stderr.String(), tt.want)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: got %s", stdout.String())
			}
		})
	}
}

func TestImageBuild(t *testing.T) {
	dir := t.TempDir()
	program, out := filepath.Join(dir, "x"), filepath.Join(dir, "x.tar")
	if err := os.WriteFile(program, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	args := []string{"image", "build", "--ref", "teleswap.dev/x:1", "--entrypoint", "/x", "--entrypoint", "-v", "--file", program + ":/x:755", "-o", out}
	if got := run(args, &stderr, &stderr); got != 0 {
		t.Fatalf("status %d: %s", got, stderr.String())
	}
	if refs, err := image.Refs(out); err != nil || len(refs) != 1 || refs[0] != "teleswap.dev/x:1" {
		t.Errorf("image: got %v, %v", refs, err)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	logger := newLogger(&out, false)
	logger.Debug("unseen")
	logger.With("a", 1).Info("seen", "b", "two")
	if got, want := out.String(), "cluster: seen  a=1  b=two\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if newLogger(&out, true).Enabled(t.Context(), slog.LevelDebug) != true {
		t.Error("with -v, steps are not shown")
	}
}
