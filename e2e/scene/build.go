package scene

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Binaries are paths of what was built for this run.
type Binaries struct {
	Teleswap     string // with -race, static
	Agent        string // with -race, static
	Probe        string // static
	ServiceA     string // static, examples/greet
	ServiceB     string
	ServiceANext string
}

func (l *Lab) build(ctx context.Context) error {
	bin := filepath.Join(l.Dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return fmt.Errorf("make a folder for binaries: %w", err)
	}
	plain := []struct {
		path *string
		pkg  string
	}{
		{&l.Bin.Probe, "./e2e/probe"},
		{&l.Bin.ServiceA, "./examples/greet/service-a"},
		{&l.Bin.ServiceB, "./examples/greet/service-b"},
		{&l.Bin.ServiceANext, "./examples/greet/service-a-next"},
	}
	var packages []string
	for _, s := range plain {
		*s.path = filepath.Join(bin, filepath.Base(s.pkg))
		packages = append(packages, s.pkg)
	}
	if err := l.goBuild(ctx, bin, "", packages...); err != nil {
		return err
	}
	l.Bin.Teleswap, l.Bin.Agent = filepath.Join(bin, "teleswap"), filepath.Join(bin, "teleswap-agent")
	// The race detector needs cgo, and neither the agent's image nor the containers of docker run have libraries.
	err := l.goBuild(ctx, bin, "-linkmode external -extldflags -static", "-race", "-tags", "netgo,osusergo", "./cmd/teleswap", "./cmd/teleswap-agent")
	if err != nil {
		return err
	}
	if os.Getenv(KubeconfigVariable) != "" {
		return nil
	}
	// The embedded cluster is a module of its own.
	driver := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(bin, "cluster"), "./cmd/cluster")
	driver.Dir = filepath.Join(l.Root, "e2e", "cluster")
	return runQuietly(driver)
}

// goBuild builds packages of the module into the folder; with cgo only for the race detector.
func (l *Lab) goBuild(ctx context.Context, bin, ldflags string, args ...string) error {
	return l.goBuildIn(ctx, l.Root, bin, ldflags, args...)
}

// goBuildIn is goBuild for the module that dir is of.
func (l *Lab) goBuildIn(ctx context.Context, dir, bin, ldflags string, args ...string) error {
	ldflags = strings.TrimSpace("-X main.version=" + Version + " " + ldflags)
	flags := []string{"build", "-trimpath", "-ldflags", ldflags, "-o", bin + "/"}
	cmd := exec.CommandContext(ctx, "go", append(flags, args...)...)
	cmd.Dir = dir
	cgo := "CGO_ENABLED=0"
	if slices.Contains(args, "-race") {
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), cgo)
	return runQuietly(cmd)
}

// Version is what the built binaries call themselves.
const Version = "v0.0.0-e2e"

// runQuietly runs a command whose output matters only if it fails.
func runQuietly(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.Bytes())
	}
	return nil
}
