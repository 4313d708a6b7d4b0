//go:build linux

// Package build makes the cluster's programs and images from Go modules, once:
// the result lies in a cache folder whose name is the hash of all that went in.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/e2e/cluster/image"
)

// Names of the images that every cluster has.
const (
	PauseRef   = "teleswap.dev/pause:1"
	CoreDNSRef = "teleswap.dev/coredns:1"
)

// Builder makes the programs.
type Builder struct {
	Parts  string // folder that holds one Go module for each group of programs
	Cache  string // where results are kept
	Owner  *Owner // whom the cache and the compiler's own cache belong to; nil means the caller
	Logger *slog.Logger
}

// Owner is the ordinary user behind sudo. Building as root would leave files of
// root's in that user's caches.
type Owner struct {
	UID, GID uint32
	Home     string
}

// module is one Go module below Parts, and what to build of it.
type module struct {
	dir      string
	packages []string
	programs []string // what the build leaves; checked before the result is kept
	version  string   // module whose version the programs report, if any
}

func modules() []module {
	return []module{
		{
			dir: "kubernetes", packages: []string{"./kube", "./coredns", "./pause"},
			programs: []string{"kube", "coredns", "pause"}, version: "k8s.io/kubernetes",
		},
		{
			dir: "containerd", packages: []string{"tool"},
			programs: []string{"containerd", "containerd-shim-runc-v2", "ctr", "host-local", "ptp", "portmap"},
		},
	}
}

// Key is the hash of everything that decides the result.
func (b *Builder) Key() (string, error) {
	parts, err := filepath.EvalSymlinks(b.Parts) // the walk does not follow one
	if err != nil {
		return "", fmt.Errorf("hash the sources of the cluster's programs: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOOS, runtime.GOARCH, layout)
	err = filepath.WalkDir(parts, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(parts, p)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n", rel, len(data))
		hash.Write(data)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hash the sources of the cluster's programs: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// Built tells whether the programs are there already.
func (b *Builder) Built() (bool, error) {
	key, err := b.Key()
	if err != nil {
		return false, err
	}
	return complete(filepath.Join(b.Cache, key)), nil
}

// layout changes when this package lays its results out in another way.
const layout = "1"

// Ensure gives the folder that holds bin/ and images/, and builds it if it is
// not there. Two builders of the same folder wait for one another. What has not been
// asked for in two weeks, and of which no program runs, it takes out of the cache.
func (b *Builder) Ensure(ctx context.Context) (dir, key string, err error) {
	key, err = b.Key()
	if err != nil {
		return "", "", err
	}
	dir = filepath.Join(b.Cache, key)
	if err := b.mkdir(b.Cache); err != nil {
		return "", "", fmt.Errorf("cache folder: %w", err)
	}
	unlock, err := b.lock(ctx, dir+".lock")
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if !use(dir) {
		if err := b.build(ctx, dir); err != nil {
			return "", "", err
		}
	}
	b.prune(key, time.Now())
	return dir, key, nil
}

func complete(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

func (b *Builder) build(ctx context.Context, dir string) error {
	b.Logger.Info("building Kubernetes, containerd and CoreDNS from source, once; this takes some minutes", "into", dir)
	began := time.Now()
	tmp := dir + ".tmp" // ours alone: we hold the lock; a builder that was killed may have left one
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	for _, d := range []string{tmp, filepath.Join(tmp, "bin"), filepath.Join(tmp, "images")} {
		if err := b.mkdir(d); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	for _, m := range modules() {
		if err := b.buildModule(ctx, m, filepath.Join(tmp, "bin")); err != nil {
			return err
		}
	}
	if err := os.Symlink("kube", filepath.Join(tmp, "bin", "kubectl")); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if err := writeImages(filepath.Join(tmp, "bin"), filepath.Join(tmp, "images")); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	b.Logger.Info("built", "seconds", int(time.Since(began).Seconds()))
	return nil
}

func (b *Builder) buildModule(ctx context.Context, m module, bin string) error {
	dir := filepath.Join(b.Parts, m.dir)
	began := time.Now()
	flags := "-s -w"
	if m.version != "" {
		version, err := b.output(ctx, dir, "list", "-m", "-f", "{{.Version}}", m.version)
		if err != nil {
			return err
		}
		flags += " " + versionFlags(strings.TrimSpace(version))
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", bin + string(filepath.Separator)}, m.packages...)
	if _, err := b.output(ctx, dir, args...); err != nil {
		return err
	}
	for _, p := range m.programs {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return fmt.Errorf("build %s: %w", m.dir, err)
		}
	}
	b.Logger.Info("built programs", "module", m.dir, "seconds", int(time.Since(began).Seconds()))
	return nil
}

// versionFlags makes the programs call themselves what they are. Without them
// the API server says v0.0.0-master+$Format:%H$, and clients stumble over it.
func versionFlags(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags, "-X "+pkg+".gitVersion="+version, "-X "+pkg+".gitTreeState=clean")
		if len(parts) == 3 {
			flags = append(flags, "-X "+pkg+".gitMajor="+parts[0], "-X "+pkg+".gitMinor="+parts[1])
		}
	}
	return strings.Join(flags, " ")
}

// output runs the go tool as the cache's owner.
func (b *Builder) output(ctx context.Context, dir string, args ...string) (string, error) {
	tool, err := GoTool()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = dir
	cmd.Env = append(slices.Clone(os.Environ()), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	// No compiler outlives us. The kernel ties this signal to the thread that
	// started the child, so that thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if b.Owner != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: b.Owner.UID, Gid: b.Owner.GID}
		cmd.Env = append(cmd.Env, "HOME="+b.Owner.Home, "GOCACHE=", "GOMODCACHE=", "GOPATH=", "XDG_CACHE_HOME=")
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, tail(errs.Bytes(), 4096))
	}
	return out.String(), nil
}

// GoTool finds the go command: sudo often takes it out of PATH.
func GoTool() (string, error) {
	if p, err := exec.LookPath("go"); err == nil {
		return p, nil
	}
	for _, p := range []string{filepath.Join(os.Getenv("GOROOT"), "bin/go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"} {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", errors.New("the go command is not in PATH: install Go (https://go.dev/dl), or add its folder to PATH")
}

func writeImages(bin, images string) error {
	for _, spec := range []struct {
		file string
		spec image.Spec
	}{
		{"pause.tar", image.Spec{
			Ref: PauseRef, Entrypoint: []string{"/pause"}, User: "65535:65535",
			Files: []image.File{{Source: filepath.Join(bin, "pause"), Target: "/pause", Mode: 0o755}},
		}},
		{"coredns.tar", image.Spec{
			Ref: CoreDNSRef, Entrypoint: []string{"/coredns"}, User: "65532:65532",
			Files: []image.File{{Source: filepath.Join(bin, "coredns"), Target: "/coredns", Mode: 0o755}},
		}},
	} {
		if err := image.WriteFile(filepath.Join(images, spec.file), spec.spec); err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes a folder, with those above it, and gives it to the cache's owner.
func (b *Builder) mkdir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := b.mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if b.Owner != nil {
		return os.Chown(dir, int(b.Owner.UID), int(b.Owner.GID))
	}
	return nil
}

// lock waits for the builder that is at it, and says so once.
func (b *Builder) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the build: %w", err)
	}
	said := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock the build: %w", err)
		}
		if !said {
			b.Logger.Info("another build of the same programs is running; waiting for it")
			said = true
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func tail(b []byte, n int) []byte {
	b = bytes.TrimRight(b, "\n")
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
