//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/e2e/cluster/cgroup"
	"github.com/teleswap/teleswap/e2e/cluster/netns"
)

// killPatience is how long the kernel may take to end processes.
const killPatience = 20 * time.Second

// Down removes the clone's cluster and every trace of it, whole or half made; with the first
// go those that the clone has beside it. A cluster that is not there is no error.
func Down(ctx context.Context, n Names, logger *slog.Logger) error {
	if n.Name != "" {
		return n.down(ctx, logger)
	}
	others, err := n.others()
	errs := []error{err}
	for _, other := range others {
		errs = append(errs, other.down(ctx, logger))
	}
	return errors.Join(append(errs, n.down(ctx, logger))...)
}

func (n Names) down(ctx context.Context, logger *slog.Logger) error {
	unlock, err := n.lock(ctx, logger)
	if err != nil {
		return err
	}
	defer unlock()
	there, err := n.traces()
	if err != nil {
		return err
	}
	if !there {
		logger.Info("no cluster of this clone is here", "clone", n.Clone, "name", n.Name)
		return nil
	}
	began := time.Now()
	if err := n.remove(logger); err != nil {
		return err
	}
	logger.Info("cluster removed", "seconds", fmt.Sprintf("%.1f", time.Since(began).Seconds()))
	return nil
}

// group gives the cluster's cgroup in every hierarchy.
func (n Names) group() (cgroup.Group, error) {
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return cgroup.Group{}, err
	}
	if len(hierarchies) == 0 {
		return cgroup.Group{}, errors.New("no cgroup hierarchy is mounted on this machine; the kubelet needs one (see cgroups(7))")
	}
	return cgroup.Group{Name: n.Cgroup, Hierarchies: hierarchies}, nil
}

// traces tells whether anything of the cluster is on the machine.
func (n Names) traces() (bool, error) {
	group, err := n.group()
	if err != nil {
		return false, err
	}
	if group.Exists() {
		return true, nil
	}
	if n.Node.Traces() || n.Laptop.Traces() {
		return true, nil
	}
	for _, p := range []string{n.Home, n.Kubeconfig(), n.KubeconfigLaptop(), filepath.Dir(n.Kubectl())} {
		if _, err := os.Lstat(p); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("look for traces of the cluster: %w", err)
		}
	}
	return false, nil
}

// remove takes the cluster away, in the order in which nothing comes back: who
// could make new things first. Each part is done even if another fails.
func (n Names) remove(logger *slog.Logger) error {
	group, err := n.group()
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"nodes", n.endNodes}, // and the kernel ends all in their PID namespaces
		{"cgroup", func() error { return group.Remove(killPatience) }},    // and who got into the group without being recorded
		{"network", func() error { return n.deleteNetwork(ancestors()) }}, // and what tests left in the namespaces
		{"devices", func() error { return newDeviceBook(logger).release(n.ID) }},
	}
	var failed []error
	for _, s := range steps {
		if err := s.do(); err != nil {
			failed = append(failed, fmt.Errorf("remove the cluster's %s: %w", s.name, err))
		}
	}
	// The files are what a later run cleans up by, and a node that lives still
	// has mounts in them.
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	if err := n.removeFiles(); err != nil {
		return fmt.Errorf("remove the cluster's files: %w", err)
	}
	return nil
}

func (n Names) endNodes() error {
	r, err := loadRecord(n.record())
	if err != nil || r == nil || r.BootID != bootID() {
		return err
	}
	errs := []error{r.Node.Kill(killPatience)}
	for _, w := range r.Workers {
		errs = append(errs, w.Process.Kill(killPatience))
	}
	return errors.Join(errs...)
}

// removeFiles removes the home last of all that others read, and the record
// with it.
func (n Names) removeFiles() error {
	for _, p := range []string{n.Kubeconfig(), n.KubeconfigLaptop(), filepath.Dir(n.Kubectl()), n.lib(), n.log(), n.etc(), n.Home} {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	// The last cluster of the machine takes the common folder along; it is not
	// empty while there is another, or a device to restore.
	if err := os.Remove(machineRoot); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

// endMembers ends the processes in a network namespace: kindly, then not.
func endMembers(space netns.Namespace, spare map[int]bool) error {
	deadline := time.Now().Add(killPatience)
	for sig := syscall.SIGTERM; ; sig = syscall.SIGKILL {
		pids, err := space.Members()
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return spare[pid] })
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not leave network namespace %s", pids, space.Name)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, sig) // ended meanwhile: as wanted
		}
		for wait := time.Now().Add(2 * time.Second); time.Now().Before(wait); {
			if pids, err = space.Members(); err != nil || len(pids) == 0 {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// ancestors are this process and those above it: whoever calls for the
// cluster's end from inside it shall see the end.
func ancestors() map[int]bool {
	line := map[int]bool{}
	for pid := os.Getpid(); pid > 1 && !line[pid]; {
		line[pid] = true
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		pid = parentOf(data)
	}
	return line
}
