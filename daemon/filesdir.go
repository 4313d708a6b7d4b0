package daemon

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/volumes"
)

// sweptFilesDir is where the files of processes without a sandbox go, a directory each, without what a dead daemon has left
// there. What cannot be removed is logged and stays: a mount that hangs must not keep the daemon from starting.
func sweptFilesDir(cfg Config) (string, error) {
	base, err := memoryDir(cfg.Paths.Dir)
	if err != nil {
		return "", fmt.Errorf("find a place for the pods' files: %w", err)
	}
	dir := filepath.Join(base, "files")
	left, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look at the place for the pods' files: %w", err)
	}
	for _, session := range left {
		err := volumes.Clear(filepath.Join(dir, session.Name()))
		cfg.Logger.Info("removed what an earlier daemon has left", "session", session.Name(), "error", err)
	}
	return dir, nil
}

// leaveFilesDir removes the place of sweptFilesDir, if nothing is in it.
func leaveFilesDir(dir string) {
	if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		if base := filepath.Dir(dir); filepath.Dir(base) == sharedMemory {
			_ = os.Remove(base)
		}
	}
}

// memoryDir is runtime, the runtime directory, where that is in memory; else a directory of this user's and daemon's in
// /dev/shm, if that is; else runtime all the same.
func memoryDir(runtime string) (string, error) {
	if inMemory(runtime) || !inMemory(sharedMemory) {
		return runtime, nil
	}
	// Daemons with runtime directories of their own must not sweep one another's.
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(runtime))
	dir := filepath.Join(sharedMemory, fmt.Sprintf("teleswap-%d-%x", os.Getuid(), sum.Sum64()))
	return dir, api.Paths{Dir: dir}.Secure()
}

// sharedMemory is a tmpfs that everybody may write to, on most Linux systems.
const sharedMemory = "/dev/shm"
