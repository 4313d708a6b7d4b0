//go:build linux

package build

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func builder(t *testing.T) *Builder {
	t.Helper()
	parts := t.TempDir()
	if err := os.WriteFile(filepath.Join(parts, "go.mod"), []byte("module x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Builder{Parts: parts, Cache: filepath.Join(t.TempDir(), "cache"), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func TestKey(t *testing.T) {
	b := builder(t)
	first, err := b.Key()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Key(); err != nil || again != first {
		t.Errorf("same sources: got %s, %v, want %s", again, err, first)
	}
	if err := os.WriteFile(filepath.Join(b.Parts, "main.go"), []byte("package main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if other, err := b.Key(); err != nil || other == first {
		t.Errorf("other sources: got %s, %v, want another key", other, err)
	}
}

func TestEnsureTakesWhatIsThere(t *testing.T) {
	b := builder(t)
	key, err := b.Key()
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(b.Cache, key)
	if err := os.MkdirAll(want, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, got, err := b.Ensure(t.Context())
	if err != nil || dir != want || got != key {
		t.Errorf("got %s, %s, %v, want %s, %s", dir, got, err, want, key)
	}
}

// A build that fails leaves nothing that the next one would take for good.
func TestEnsureFailedBuild(t *testing.T) {
	b := builder(t)
	for range 2 {
		dir, _, err := b.Ensure(t.Context())
		if err == nil || !strings.Contains(err.Error(), "go list") {
			t.Fatalf("got %s, %v, want the go tool's error", dir, err)
		}
	}
}

func TestEnsureWaitsForTheOtherBuilder(t *testing.T) {
	b := builder(t)
	key, err := b.Key()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.Cache, key)
	if err := b.mkdir(b.Cache); err != nil {
		t.Fatal(err)
	}
	unlock, err := b.lock(t.Context(), dir+".lock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := b.Ensure(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another builds: got %v, want to wait", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil { // the other is done
		t.Fatal(err)
	}
	unlock()
	if got, _, err := b.Ensure(t.Context()); err != nil || got != dir {
		t.Errorf("after the other: got %s, %v, want %s", got, err, dir)
	}
}

func TestVersionFlags(t *testing.T) {
	flags := versionFlags("v1.36.3")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.36.3", "-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/client-go/pkg/version.gitMinor=36",
	} {
		if !strings.Contains(flags, want) {
			t.Errorf("got %s, want %s in it", flags, want)
		}
	}
}
