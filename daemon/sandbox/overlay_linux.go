package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay covers paths of the laptop in the sandbox's mount namespace. It is for one goroutine.
type overlay struct {
	store string // a tmpfs, until release
	// ours are the devices of file systems that are the sandbox's own: what is made on them does not touch the laptop.
	// False: they are the pod's at the same time, so nothing is removed from them.
	ours map[uint64]bool
	made int
	// layer, if not 0, is the device of a container's own file system: mount points are made in it, as Docker does.
	layer uint64
	// idmap, if not nil, is a user namespace whose map binds get (mount_setattr(2), MOUNT_ATTR_IDMAP).
	idmap *os.File
}

// newOverlay mounts the store on over, a directory that the sandbox will see again as it was once release is called; what
// was bound elsewhere by then stays.
func newOverlay(over string) (*overlay, error) {
	if err := unix.Mount("tmpfs", over, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs in the sandbox: %w", err)
	}
	o := &overlay{store: over, ours: map[uint64]bool{}}
	if err := o.adopt(over, true); err != nil {
		o.release()
		return nil, fmt.Errorf("mount a tmpfs in the sandbox: %w", err)
	}
	return o, nil
}

// adopt makes the file system at path one of ours.
func (o *overlay) adopt(path string, disposable bool) error {
	dev, err := deviceOf(path)
	if err == nil {
		o.ours[dev] = disposable
	}
	return err
}

// release takes the store's name away, and lets go of the map of ids.
func (o *overlay) release() {
	_ = unix.Unmount(o.store, unix.MNT_DETACH)
	if o.idmap != nil {
		_ = o.idmap.Close()
	}
}

// fresh is a name in the store that is not taken.
func (o *overlay) fresh(kind string) string {
	o.made++
	return filepath.Join(o.store, fmt.Sprintf("%s%d", kind, o.made))
}

// cover binds source, a directory or a file, over path and returns where that is, links followed. Where path does not
// exist, or is of the other kind, its nearest existing parent is rebuilt in the store, with its old children bound into it,
// and the missing part added.
func (o *overlay) cover(source, path string, dir bool) (string, error) {
	target, parent, missing, err := resolve(path)
	if err != nil {
		return "", err
	}
	if missing == "" {
		st, err := os.Lstat(target)
		if err != nil {
			return "", err
		}
		if st.IsDir() == dir {
			return target, o.bind(source, target)
		}
		parent, missing = filepath.Dir(target), filepath.Base(target)
	} else if dev, err := deviceOf(parent); err == nil && o.layer != 0 && dev == o.layer && makeMountPoint(target, dir) == nil {
		return target, o.bind(source, target)
	}
	first, _, _ := strings.Cut(missing, "/")
	if err := o.own(parent, first); err != nil {
		return "", err
	}
	if err := makeMountPoint(target, dir); err != nil {
		return "", err
	}
	return target, o.bind(source, target)
}

// bind binds source over target.
func (o *overlay) bind(source, target string) error {
	if o.idmap != nil && bindMapped(source, target, o.idmap) == nil {
		return nil
	}
	// Before Linux 6.3 a tmpfs takes no map: its files belong to somebody else then, and their modes decide.
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}

// bindMapped binds source over target with the ids of a user namespace.
func bindMapped(source, target string, users *os.File) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// makeMountPoint makes an empty directory or file and the directories above it.
func makeMountPoint(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// own makes sure that something called name can be made in dir without touching the laptop: dir becomes a directory of the
// store, unless it is one already.
func (o *overlay) own(dir, name string) error {
	dev, err := deviceOf(dir)
	if err != nil {
		return err
	}
	disposable, known := o.ours[dev]
	switch {
	case known && !disposable:
		return nil // the pod's: what is in the way stays, and is an error soon
	case known:
		return makeRoom(filepath.Join(dir, name))
	}
	like := o.fresh("dir")
	if err := rebuild(dir, like, name); err != nil {
		return err
	}
	if dir == "/" {
		return changeRoot(like)
	}
	return unix.Mount(like, dir, "", unix.MS_BIND|unix.MS_REC, "")
}

// makeRoom removes what is in the way of a mount point on a file system of ours: a bind of the laptop's, or an earlier mount
// point.
func makeRoom(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// changeRoot makes dir the root directory of this process and of what it starts: a mount on / would be seen by
// nobody. See pivot_root(2), "pivot_root(".", ".")". The working directory stays on its path.
func changeRoot(dir string) error {
	back, err := os.Getwd()
	if err != nil {
		back = "/"
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the sandbox's root directory: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the laptop's root directory: %w", err)
	}
	if unix.Chdir(back) != nil {
		return unix.Chdir("/")
	}
	return nil
}

// rebuild makes dir's like: its children are bound into it, its symbolic links made again. The child called except is left
// out.
func rebuild(dir, like, except string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	children, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := os.Mkdir(like, 0o755); err != nil {
		return err
	}
	for _, c := range children {
		if c.Name() == except {
			continue
		}
		from, to := filepath.Join(dir, c.Name()), filepath.Join(like, c.Name())
		err := rebuildChild(c, from, to)
		// It was removed meanwhile, or is the mount of a file system whose server has died.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTCONN) {
			return fmt.Errorf("keep %s: %w", from, err)
		}
	}
	return os.Chmod(like, st.Mode()|0o700)
}

func rebuildChild(c fs.DirEntry, from, to string) error {
	switch {
	case c.Type()&fs.ModeSymlink != 0:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	case c.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o644); err != nil {
			return err
		}
	}
	return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
}

func deviceOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Dev, nil
}
