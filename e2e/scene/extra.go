package scene

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// extras are images and programs that few tests need: each is made when the first
// test asks for it. Safe for concurrent use.
type extras struct {
	mu       sync.Mutex
	images   map[string]string // reference by name
	programs map[string]string // path by Go package
}

// extraImages are the recipes, by the word that stands for the image in a YAML text.
func extraImages() map[string]func(*Lab, context.Context) (string, error) {
	return map[string]func(*Lab, context.Context) (string, error){
		"SERVERS":    (*Lab).buildServers,
		"CONTROLLER": (*Lab).buildController,
		"QUIC":       (*Lab).buildQUIC,
		"TELESWAP":   (*Lab).buildTeleswap,
	}
}

// serverPackages are real third-party servers, and a shell to start them with.
func serverPackages() (packages, without []string) {
	return []string{"nginx-light", "redis-server", "postgresql-15", "msmtp-mta", "git", "dash", "coreutils", "libc-bin"},
		// Half a gigabyte that only scripts, just-in-time compilation and manuals need.
		[]string{
			"libllvm14", "libz3-4", "perl", "perl-base", "perl-modules-5.36", "libperl5.36", "locales", "libc-l10n", "git-man",
			"postgresql-common", "postgresql-client-common", "dpkg", "tar", "debconf", "iproute2", "openssl",
		}
}

func (l *Lab) buildServers(ctx context.Context) (string, error) {
	args := []string{"--entrypoint", "/bin/sh", "--user", "65532:65532", "--env", "PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin"}
	packages, without := serverPackages()
	for _, p := range packages {
		args = append(args, "--package", p)
	}
	for _, p := range without {
		args = append(args, "--without", p)
	}
	return l.buildExtra(ctx, "servers", args...)
}

func (l *Lab) buildController(ctx context.Context) (string, error) {
	program, err := l.program(ctx, "./examples/controller")
	if err != nil {
		return "", err
	}
	return l.buildExtra(ctx, "controller", "--entrypoint", "/controller", "--file", program+":/controller:0755", "--user", "65532:65532")
}

// QUICProgram is the package of the HTTP/3 server and client, a module of its own.
const QUICProgram = "./e2e/quic"

func (l *Lab) buildQUIC(ctx context.Context) (string, error) {
	program, err := l.program(ctx, QUICProgram)
	if err != nil {
		return "", err
	}
	return l.buildExtra(ctx, "quic", "--entrypoint", "/quic", "--file", program+":/quic:0755", "--user", "65532:65532")
}

// buildTeleswap is the command line itself, for an IDE's pod, say.
func (l *Lab) buildTeleswap(ctx context.Context) (string, error) {
	program, err := l.program(ctx, "./cmd/teleswap")
	if err != nil {
		return "", err
	}
	return l.buildExtra(ctx, "teleswap", "--entrypoint", "/bin/teleswap", "--file", program+":/bin/teleswap:0755",
		"--file", l.Bin.Probe+":/bin/probe:0755", "--user", "65532:65532", "--env", "PATH=/bin")
}

// buildExtra writes an image and gives it to the cluster.
func (l *Lab) buildExtra(ctx context.Context, name string, args ...string) (string, error) {
	ref, archive := "teleswap.dev/e2e-"+name+":dev", filepath.Join(l.Dir, name+".tar")
	args = append([]string{"image", "build", "--ref", ref, "-o", archive}, args...)
	if err := runQuietly(l.cluster(ctx, args...)); err != nil {
		return "", fmt.Errorf("write image %s: %w", ref, err)
	}
	if err := runQuietly(l.cluster(ctx, "load-image", archive)); err != nil {
		return "", fmt.Errorf("load image %s: %w", ref, err)
	}
	return ref, os.Remove(archive)
}

// withExtras puts the references of images into a YAML text that names them.
func (w *World) withExtras(text string) string {
	w.T.Helper()
	x := &w.Lab.extras
	x.mu.Lock()
	defer x.mu.Unlock()
	recipes := extraImages()
	for _, word := range slices.Sorted(maps.Keys(recipes)) {
		if !strings.Contains(text, "image: "+word+"\n") {
			continue
		}
		if x.images[word] == "" {
			ref := os.Getenv(ImagesVariable) + "/" + strings.ToLower(word) + ":e2e"
			if os.Getenv(KubeconfigVariable) == "" {
				var err error
				ref, err = recipes[word](w.Lab, w.T.Context())
				w.must(err, "make the image %s", word)
			}
			if x.images == nil {
				x.images = map[string]string{}
			}
			x.images[word] = ref
		}
		text = strings.ReplaceAll(text, "image: "+word+"\n", "image: "+x.images[word]+"\n")
	}
	return text
}

// Program is the path of a static build of one of the repository's Go packages; it may be a module of its own.
func (w *World) Program(pkg string) string {
	w.T.Helper()
	w.Lab.extras.mu.Lock()
	defer w.Lab.extras.mu.Unlock()
	path, err := w.Lab.program(w.T.Context(), pkg)
	w.must(err, "build %s", pkg)
	return path
}

// program needs the extras' lock.
func (l *Lab) program(ctx context.Context, pkg string) (string, error) {
	if path := l.extras.programs[pkg]; path != "" {
		return path, nil
	}
	bin, dir, what := filepath.Join(l.Dir, "bin"), l.Root, pkg
	if _, err := os.Stat(filepath.Join(l.Root, pkg, "go.mod")); err == nil {
		dir, what = filepath.Join(l.Root, pkg), "."
	}
	if err := l.goBuildIn(ctx, dir, bin, "", what); err != nil {
		return "", err
	}
	if l.extras.programs == nil {
		l.extras.programs = map[string]string{}
	}
	l.extras.programs[pkg] = filepath.Join(bin, filepath.Base(pkg))
	return l.extras.programs[pkg], nil
}
