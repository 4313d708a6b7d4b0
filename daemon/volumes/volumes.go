// Package volumes fills a sandbox's volumes, or directories of the laptop, with what the pod's hold. A synced volume (Secret, ConfigMap, projected,
// downwardAPI) is a tmpfs that follows the pod's files as the kubelet changes them: at once and whole. A live one (emptyDir,
// PersistentVolumeClaim, hostPath …) is a FUSE file system over SFTP: both sides read and write the same files.
//
// It reaches the sandbox by descriptors alone and knows no Kubernetes; the pod's files arrive through two functions.
package volumes

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// ErrNoFUSE says why there are no live volumes outside a sandbox.
var ErrNoFUSE = errors.New("live volumes need FUSE")

// Mount is one volume of a sandbox.
type Mount struct {
	// Path is where the volume is in the pod, absolute.
	Path string
	// Live is served by FUSE; otherwise the volume is synced.
	Live bool
	// File says that Path is a file. The sandbox's volume then holds it under the name "file".
	File bool
	// Handle is a directory of a tmpfs, or (Live) a FUSE device that is mounted and waits for its server.
	Handle *os.File
	// Dir is, where there is no Handle, a directory of the laptop that is filled or (Live) mounted on; see Under.
	Dir string
	// Name is what the volume calls the file; empty: "file".
	Name string
	// ReadOnly lets nobody write into a live volume that is mounted on Dir.
	ReadOnly bool
}

// given says whether there is a place for the volume.
func (m Mount) given() bool { return m.Handle != nil || m.Dir != "" }

// fileName is the name of the file that the volume is.
func (m Mount) fileName() string {
	if m.Name != "" {
		return m.Name
	}
	return fileName
}

// Config says what is to be filled, and whence. All fields but Warn, Logger, Redial and Patience are needed.
type Config struct {
	// Trees calls got with each root's whole content, at once and after each change, until ctx ends or the tunnel breaks.
	// It is called again then.
	Trees func(ctx context.Context, roots []string, got func(*tunnel.Tree)) error
	// Files opens a byte stream on which SFTP version 3 is served. It is called again when one has broken.
	Files  func(ctx context.Context) (net.Conn, error)
	Mounts []Mount
	// Owner is whose everything in live volumes is, as their file systems know users. Nil: ours.
	Owner *Owner
	// Warn gets a line for the user. Nil: none.
	Warn func(format string, args ...any)
	// Logger: nil discards. No content of a file is logged.
	Logger *slog.Logger
	// Redial is the first pause between two tries to reach the pod again. Zero: 200 ms.
	Redial time.Duration
	// Patience is how long an operation on a live volume waits for a broken way to the pod; then it fails with EIO. Zero: 15 s.
	Patience time.Duration
}

// Owner is a user and a group.
type Owner struct{ UID, GID int }

const (
	// fileName is what a volume that is a single file calls it.
	fileName = "file"

	defaultRedial   = 200 * time.Millisecond
	longestRedial   = 5 * time.Second
	defaultPatience = 15 * time.Second
)

func (cfg Config) withDefaults() Config {
	if cfg.Redial == 0 {
		cfg.Redial = defaultRedial
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string, ...any) {}
	}
	return cfg
}
