package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/teleswap/teleswap/e2e/bench/scene"
)

// What a run makes is named after its process, so that a later one can tell
// what a killed one has left.
const (
	namespacePrefix = "teleswap-bench-"
	dirPrefix       = "tsbench-"
)

// sweep removes what killed runs on this machine have left. Their processes
// end by themselves: with the pipes to them, or when idle.
func sweep(ctx context.Context, config scene.Config, logger *slog.Logger) {
	namespaces, err := scene.Namespaces(ctx, config)
	if err != nil {
		logger.Warn("look for what killed runs have left", "err", err)
		return
	}
	for _, name := range namespaces {
		if !ofDeadProcess(name, namespacePrefix) {
			continue
		}
		logger.Info("removing what a killed run has left", "namespace", name)
		stale := scene.Scene{Config: config}
		stale.Namespace = name
		if err := stale.Close(ctx); err != nil {
			// Its folder may hold what restores it: leave that, too.
			logger.Warn("remove what a killed run has left", "err", err)
			return
		}
	}
	dirs, _ := filepath.Glob(filepath.Join("/tmp", dirPrefix+"*")) // the pattern is well-formed
	for _, dir := range dirs {
		if ofDeadProcess(filepath.Base(dir), dirPrefix) {
			if err := os.RemoveAll(dir); err != nil {
				logger.Warn("remove what a killed run has left", "err", err)
			}
		}
	}
}

// ofDeadProcess tells whether the name is the prefix, the id of a process that
// is no more, and maybe a dash with anything.
func ofDeadProcess(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return false
	}
	id, _, _ := strings.Cut(rest, "-")
	if pid, err := strconv.Atoi(id); err != nil || pid <= 0 {
		return false
	}
	_, err := os.Stat(filepath.Join("/proc", id))
	return errors.Is(err, fs.ErrNotExist)
}
