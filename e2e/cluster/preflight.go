//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/teleswap/teleswap/e2e/cluster/build"
)

// tool is a program of the machine that the cluster needs, and the package that
// has it on Debian and Ubuntu.
type tool struct{ name, pkg string }

func tools() []tool {
	return []tool{
		{"runc", "runc"},
		{"ip", "iproute2"},
		{"nft", "nftables"},
	}
}

// systemPath is where root's tools are; sudo and cron leave it out of PATH at
// times.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Preflight says, in one message, all that keeps a cluster from running here.
func Preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("the cluster needs root for network namespaces, mounts and cgroups: run it as root, for example: sudo make cluster-up")
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+":"+systemPath); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	if err := missingTools(exec.LookPath); err != nil {
		return err
	}
	_, err := build.GoTool()
	return err
}

func missingTools(look func(string) (string, error)) error {
	var names, packages []string
	for _, t := range tools() {
		if _, err := look(t.name); err != nil {
			names = append(names, t.name)
			packages = append(packages, t.pkg)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("not installed: %s; on Debian or Ubuntu: sudo apt-get install -y %s",
		strings.Join(names, ", "), strings.Join(slices.Compact(packages), " "))
}

// sudoUser is the ordinary user behind sudo, or nil.
func sudoUser() (*build.Owner, error) {
	uid, gid := os.Getenv("SUDO_UID"), os.Getenv("SUDO_GID")
	if uid == "" || uid == "0" {
		return nil, nil
	}
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("SUDO_UID %q: %w", uid, err)
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("SUDO_GID %q: %w", gid, err)
	}
	who, err := user.LookupId(uid)
	if err != nil {
		return nil, fmt.Errorf("who called sudo: %w", err)
	}
	return &build.Owner{UID: uint32(u), GID: uint32(g), Home: who.HomeDir}, nil
}

// cacheDir is where built programs are kept, for all clones.
func cacheDir(owner *build.Owner) (string, error) {
	if dir := os.Getenv("TELESWAP_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("TELESWAP_CACHE: %w", err)
		}
		return filepath.Join(abs, "cluster"), nil
	}
	if owner != nil { // not root's cache: the user's clone, the user's cache
		return filepath.Join(owner.Home, ".cache", "teleswap", "cluster"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "teleswap", "cluster"), nil
}

// TreeCache is where file trees made of Debian's packages are kept, for all clones.
func TreeCache() (string, error) {
	owner, err := sudoUser()
	if err != nil {
		return "", err
	}
	dir, err := cacheDir(owner)
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(dir), "debian"), nil
}
