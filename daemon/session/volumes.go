package session

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/volumes"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// filesPatience bounds what the start of a process waits for the pod's files.
const filesPatience = 15 * time.Second

// findMounts is what the sandbox is to show of the pod's volumes. What it cannot show is said in one line each.
func (s *Session) findMounts(ctx context.Context, sw *swap) []sandbox.Mount {
	if s.req.NoVolumes || len(sw.pod.Mounts) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, filesPatience)
	defer cancel()
	paths := make([]string, 0, len(sw.pod.Mounts))
	for _, m := range sw.pod.Mounts {
		paths = append(paths, m.Path)
	}
	found, err := volumes.Probe(ctx, sw.link.DialFiles, paths)
	if err != nil {
		s.warn("the process will not see the pod's %d volumes: %v", len(paths), err)
		return nil
	}
	var wanted []sandbox.Mount
	for i, m := range sw.pod.Mounts {
		m.File = found[i].Mode.IsRegular() && found[i].Err == nil
		if why := notShown(found[i]); why != "" {
			s.warn("the process will not see the pod's %s (volume %s): %s", m.Path, m.Volume, why)
			continue
		}
		sw.mounts = append(sw.mounts, m)
		wanted = append(wanted, sandbox.Mount{Path: m.Path, Live: m.Live, ReadOnly: m.ReadOnly, File: m.File})
	}
	return wanted
}

// notShown is why a volume cannot be shown, or empty.
func notShown(f volumes.Found) string {
	switch {
	case f.Err != nil:
		return fmt.Sprintf("the agent may not look at it: %v", f.Err)
	case f.Mode.IsDir(), f.Mode.IsRegular():
		return ""
	case f.Mode&fs.ModeSocket != 0:
		return "it is a socket, and its other end is on the node"
	}
	return "it is neither a directory nor a plain file, but a thing of the node's kernel"
}

// startVolumes fills what the sandbox has made. When it returns the first copies are there.
func (s *Session) startVolumes(ctx context.Context, sw *swap) error {
	got := sw.box.TakeMounts()
	files, problems := got.Files, got.Problems
	if len(files) != len(sw.mounts) || len(problems) != len(sw.mounts) {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
		return fmt.Errorf("the sandbox has %d of %d volumes; are the command and the daemon of one version?", len(files), len(sw.mounts))
	}
	if len(files) == 0 {
		return nil
	}
	var mounts []volumes.Mount
	for i, m := range sw.mounts {
		if problems[i] != "" {
			s.warn("the process does not see the pod's %s (volume %s): %s", m.Path, m.Volume, problems[i])
		}
		mounts = append(mounts, volumes.Mount{Path: m.Path, Live: m.Live, File: m.File, Handle: files[i]})
	}
	ctx, cancel := context.WithTimeout(ctx, filesPatience)
	defer cancel()
	var err error
	sw.volumes, err = volumes.Start(ctx, volumes.Config{
		Trees: sw.link.WatchTrees, Files: sw.link.DialFiles, Mounts: mounts, Owner: &got.Owner, Warn: s.warn, Logger: s.log,
	})
	return err
}

// DialFiles implements Link.
func (l *agentLink) DialFiles(ctx context.Context) (net.Conn, error) {
	client, err := l.Working(ctx)
	if err != nil {
		return nil, err
	}
	return client.DialFiles(ctx)
}

// WatchTrees implements Link.
func (l *agentLink) WatchTrees(ctx context.Context, roots []string, got func(*tunnel.Tree)) error {
	client, err := l.Working(ctx)
	if err != nil {
		return err
	}
	return client.WatchTrees(ctx, roots, got)
}
