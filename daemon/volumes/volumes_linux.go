package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxTransfer is the longest read or write of the kernel's, in bytes.
	maxTransfer = 1 << 20
	// background is how many reads ahead and the like the kernel may have under way.
	background = 64
	// endPatience bounds the wait for the sandbox's end, with which its file systems go.
	endPatience = 5 * time.Second
)

// Volumes are the volumes of one sandbox, until Close.
type Volumes struct {
	cfg    Config
	copies *copies
	remote *remote
	stop   context.CancelFunc
	loops  sync.WaitGroup
	served sync.WaitGroup // by each FUSE server, which ends with its file system
	// mounted are the directories of the laptop on which live volumes are mounted.
	mounted []string
}

// Start takes the mounts' handles over, serves the live volumes and returns when the synced ones hold their first copy, or
// ctx has ended: then it says what is missing, and goes on trying. Mounts without a handle are passed over. The caller
// must close what it returns after the sandbox's processes have been ended.
func Start(ctx context.Context, cfg Config) (*Volumes, error) {
	cfg = cfg.withDefaults()
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	v := &Volumes{cfg: cfg, stop: stop, remote: newRemote(ctx, cfg)}
	var err error
	if v.copies, err = newCopies(cfg); err != nil {
		stop()
		v.remote.close()
		return nil, errors.Join(err, closeHandles(cfg.Mounts))
	}
	v.loops.Go(func() { v.copies.follow(life) })
	for _, m := range cfg.Mounts {
		if !m.Live || !m.given() {
			continue
		}
		if err := v.serve(m); err != nil {
			cfg.Warn("the pod's %s cannot be shown: %v", m.Path, err)
		}
	}
	select {
	case <-v.copies.arrived:
	case <-ctx.Done():
		cfg.Warn("the pod's %s did not come in time, and will be there later", strings.Join(v.copies.missing(), ", "))
	}
	return v, nil
}

// serve starts the server of a live volume.
func (v *Volumes) serve(m Mount) error {
	vol := &live{remote: v.remote, base: m.Path, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	if o := v.cfg.Owner; o != nil {
		vol.uid, vol.gid = uint32(o.UID), uint32(o.GID)
	}
	var root fusefs.InodeEmbedder = newNode(vol)
	if m.File {
		root = &fileRoot{vol: vol}
	}
	timeout := fresh
	quiet := slog.NewLogLogger(v.cfg.Logger.Handler(), slog.LevelDebug)
	raw := fusefs.NewNodeFS(root, &fusefs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout, NullPermissions: true, FirstAutomaticIno: 2, Logger: quiet,
	})
	options := &fuse.MountOptions{
		MaxWrite: maxTransfer, MaxReadAhead: maxTransfer, MaxBackground: background,
		DisableXAttrs: true, DisableSplice: true, Logger: quiet, Name: "teleswap",
	}
	if m.Handle == nil {
		return v.serveAt(m, raw, options)
	}
	fd, err := unix.FcntlInt(m.Handle.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	server, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", fd), options)
	if err != nil {
		return fmt.Errorf("serve the FUSE file system: %w", err)
	}
	v.served.Go(server.Serve)
	return m.Handle.Close() // else the file system would outlive its server
}

// serveAt mounts a live volume on a directory of the laptop.
func (v *Volumes) serveAt(m Mount, raw fuse.RawFileSystem, options *fuse.MountOptions) error {
	options.FsName = "teleswap"
	// Root mounts by itself, all others by fusermount3, which is set-uid.
	options.DirectMount = os.Geteuid() == 0
	if m.ReadOnly {
		options.Options = append(options.Options, "ro")
		options.DirectMountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY
	}
	if options.DirectMount {
		options.Options = nil // flags, to mount(2)
	}
	server, err := fuse.NewServer(raw, m.Dir, options)
	if err != nil { // fusermount3 says more, on our standard error
		return fmt.Errorf("mount a FUSE file system: %s (see the daemon's log)", strings.TrimSpace(err.Error()))
	}
	v.mounted = append(v.mounted, m.Dir)
	v.served.Go(server.Serve)
	return server.WaitMount()
}

// Close ends the copying and, once what the processes wrote has arrived, the way to the pod: from then on live volumes answer EIO. It waits for the end of the sandbox's
// file systems; if the sandbox does not end they go on answering so, and Close says so.
func (v *Volumes) Close() error {
	v.stop()
	v.loops.Wait()
	v.remote.drain(endPatience)
	var unmounted []error
	for _, dir := range v.mounted {
		unmounted = append(unmounted, unmount(dir))
	}
	v.remote.close()
	errs := []error{errors.Join(unmounted...), v.copies.close(), closeHandles(v.cfg.Mounts)}
	gone := make(chan struct{})
	go func() { // ends with the sandbox
		defer close(gone)
		v.served.Wait()
	}()
	patience := time.NewTimer(endPatience)
	defer patience.Stop()
	select {
	case <-gone:
	case <-patience.C:
		errs = append(errs, errors.New("the process's file systems are still mounted: something of it has not ended"))
	}
	return errors.Join(errs...)
}

// closeHandles closes those that are still open.
func closeHandles(mounts []Mount) error {
	var errs []error
	for _, m := range mounts {
		if m.Handle == nil {
			continue
		}
		if err := m.Handle.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// fileRoot is the top of a volume that is a single file. Nobody sees it but who binds the file to its path.
type fileRoot struct {
	fusefs.Inode
	vol *live
}

// OnAdd implements fs.NodeOnAdder.
func (r *fileRoot) OnAdd(ctx context.Context) {
	only := newNode(&live{remote: r.vol.remote, base: r.vol.base, uid: r.vol.uid, gid: r.vol.gid, file: true})
	r.AddChild(fileName, r.NewPersistentInode(ctx, only, fusefs.StableAttr{Mode: syscall.S_IFREG}), false)
}

// Getattr implements fs.NodeGetattrer.
func (r *fileRoot) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Owner = syscall.S_IFDIR|madeDir, fuse.Owner{Uid: r.vol.uid, Gid: r.vol.gid}
	return 0
}

var (
	_ fusefs.NodeOnAdder   = (*fileRoot)(nil)
	_ fusefs.NodeGetattrer = (*fileRoot)(nil)
)
