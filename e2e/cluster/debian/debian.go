// Package debian makes the file tree of a container image from Debian's packages, with
// what they depend on, as one tar: real third-party servers without a registry. It
// needs apt-get and dpkg-deb, runs no maintainer script, and knows nothing of images or
// of the cluster.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Spec says what is in the tree. The zero values of all but Packages and Cache are fine.
type Spec struct {
	Packages []string // names, as apt-get knows them
	Without  []string // packages that are left out though others depend on them
	Cache    string   // folder that keeps finished trees
}

// layout changes when this package makes another tree of the same packages.
const layout = "1"

// Ensure gives the path of the tar, which is made if the cache does not have it. A tree that is
// in the cache is used for good: newer versions of its packages do not change it. Safe for
// use by several processes at a time: the last one to finish wins, with the same content.
func Ensure(ctx context.Context, s Spec) (string, error) {
	if len(s.Packages) == 0 || s.Cache == "" {
		return "", errors.New("debian: no packages, or no cache folder given")
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("debian: %s is not here: trees of Debian's packages are made on Debian or Ubuntu: %w", tool, err)
		}
	}
	key, err := s.key("/etc/os-release")
	if err != nil {
		return "", err
	}
	file := filepath.Join(s.Cache, key+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(s.Cache, 0o755); err != nil {
		return "", fmt.Errorf("debian: %w", err)
	}
	tmp, err := os.MkdirTemp(s.Cache, key+".tmp-")
	if err != nil {
		return "", fmt.Errorf("debian: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	archives, err := s.download(ctx, tmp)
	if err != nil {
		return "", err
	}
	part := filepath.Join(tmp, "tree.tar")
	if err := writeTree(ctx, part, archives); err != nil {
		return "", err
	}
	if err := os.Rename(part, file); err != nil {
		return "", fmt.Errorf("debian: %w", err)
	}
	return file, nil
}

// key is the hash of everything that decides the tree, except the packages' versions.
func (s Spec) key(osRelease string) (string, error) {
	release, err := os.ReadFile(osRelease)
	if err != nil {
		return "", fmt.Errorf("debian: which release is this: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintln(hash, layout, runtime.GOARCH, strings.Join(slices.Sorted(slices.Values(s.Packages)), " "))
	fmt.Fprintln(hash, strings.Join(slices.Sorted(slices.Values(s.Without)), " "))
	for line := range strings.Lines(string(release)) {
		if strings.HasPrefix(line, "ID=") || strings.HasPrefix(line, "VERSION_CODENAME=") {
			fmt.Fprint(hash, line)
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// download brings the archives of the packages and of what they depend on, as if nothing
// were installed.
func (s Spec) download(ctx context.Context, dir string) ([]string, error) {
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, fmt.Errorf("debian: %w", err)
	}
	resolve := append([]string{
		"-y", "-qq", "-o", "Dir::State::status=" + status, "-o", "Debug::NoLocking=1",
		"-o", "APT::Install-Recommends=false", "--print-uris", "install",
	}, s.Packages...)
	out, err := apt(ctx, dir, resolve...)
	if err != nil {
		// A machine that was made without package lists has them after this.
		if _, updateErr := apt(ctx, dir, "-qq", "update"); updateErr != nil {
			return nil, errors.Join(err, updateErr)
		}
		if out, err = apt(ctx, dir, resolve...); err != nil {
			return nil, err
		}
	}
	wanted, err := s.wanted(out)
	if err != nil {
		return nil, err
	}
	get := append([]string{"-qq", "-o", "APT::Sandbox::User=root", "download"}, wanted...)
	if _, err := apt(ctx, dir, get...); err != nil {
		return nil, err
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(archives) != len(wanted) {
		return nil, fmt.Errorf("debian: %d archives of %d came: %w", len(archives), len(wanted), err)
	}
	return archives, nil // Glob sorts
}

// wanted reads apt-get's list of addresses (lines of: 'URL' FILE SIZE HASH) into NAME=VERSION.
func (s Spec) wanted(uris string) ([]string, error) {
	var wanted []string
	for line := range strings.Lines(uris) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasSuffix(fields[1], ".deb") {
			continue
		}
		parts := strings.Split(fields[1], "_")
		if len(parts) != 3 {
			return nil, fmt.Errorf("debian: apt-get names a package %q: want NAME_VERSION_ARCHITECTURE.deb", fields[1])
		}
		version, err := url.PathUnescape(parts[1])
		if err != nil {
			return nil, fmt.Errorf("debian: version of %q: %w", fields[1], err)
		}
		if !slices.Contains(s.Without, parts[0]) {
			wanted = append(wanted, parts[0]+"="+version)
		}
	}
	if len(wanted) == 0 {
		return nil, fmt.Errorf("debian: apt-get resolves %v to nothing: %.200q", s.Packages, uris)
	}
	return wanted, nil
}

func apt(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
