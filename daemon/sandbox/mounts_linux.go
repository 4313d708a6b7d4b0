package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	fuseDevice = "/dev/fuse"
	// maxRights is the kernel's SCM_MAX_FD; the device and the network namespace are two of them.
	maxRights = 253
	maxMounts = maxRights - 2
	// fileName is what a volume that is a single file calls it.
	fileName = "file"
	// maxRead is the longest read of a live volume in bytes, the most that kernels ask for by default.
	maxRead = 1 << 20
)

// neverCovered are directories without which no program runs.
var neverCovered = []string{"/", "/proc", "/sys", "/dev"}

// volumes are the pod's volumes in the making.
type volumes struct {
	over   *overlay
	mounts []Mount
	dir    string // the command's working directory
	each   []volume
	// owner is whose the volumes are at first: who fills them.
	owner user
	// device opens a FUSE device.
	device func() (int, error)
	// taken are paths that somebody else has mounted something on, which stays.
	taken []string
}

// user is a process's, as the caller's user namespace has it.
type user struct{ UID, GID int }

// openDevice opens the machine's FUSE device. Not by os.OpenFile: a device without a file system cannot be polled, and the
// runtime would note that.
func openDevice() (int, error) { return unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0) }

// volume is one Mount: first a file system in the store, then bound over its path.
type volume struct {
	at      string   // in the store
	file    *os.File // for the daemon
	target  string   // the path with its links followed
	late    bool     // can be laid over its path only when the daemon serves
	problem error
}

// makeVolumes makes a file system for each of the spec's mounts, and lays it over its path where that needs no answer
// of the daemon's. What cannot be made is a volume with a problem, and the laptop's path stays.
func makeVolumes(o *overlay, spec *Spec) *volumes {
	v := &volumes{
		over: o, mounts: spec.Mounts, dir: spec.Dir, owner: user{os.Geteuid(), os.Getegid()}, device: openDevice,
	}
	if v.dir == "" {
		v.dir, _ = os.Getwd()
	}
	v.makeAll()
	return v
}

func (v *volumes) makeAll() {
	v.each = make([]volume, len(v.mounts))
	for i := range v.mounts {
		if err := v.make(i); err != nil {
			v.each[i].problem = err
		}
	}
	for i := range v.each {
		v.each[i].late = v.waitsForDaemon(i)
	}
	for _, i := range v.order(false) {
		v.each[i].problem = v.place(i)
	}
	for i := range v.each {
		if vol := &v.each[i]; vol.problem != nil && vol.file != nil {
			_ = vol.file.Close()
			vol.file = nil
		}
	}
}

// make makes the file system and finds out where it belongs.
func (v *volumes) make(i int) error {
	m, vol := v.mounts[i], &v.each[i]
	if i >= maxMounts {
		return fmt.Errorf("a sandbox takes %d volumes", maxMounts)
	}
	if !filepath.IsAbs(m.Path) {
		return errors.New("the path is not absolute")
	}
	target, _, _, err := resolve(filepath.Clean(m.Path))
	if err != nil {
		return err
	}
	if slices.Contains(neverCovered, target) {
		return fmt.Errorf("every program needs the laptop's own %s", target)
	}
	if slices.Contains(v.taken, target) || slices.Contains(v.taken, filepath.Clean(m.Path)) {
		return errors.New("you have mounted something else there")
	}
	if isBelow(v.dir, target) {
		return errors.New("the command's working directory is in there, and would be hidden")
	}
	vol.target, vol.at = target, v.over.fresh("volume")
	if err := os.Mkdir(vol.at, 0o755); err != nil {
		return err
	}
	if m.Live {
		vol.file, err = v.mountFUSE(vol.at)
		return err
	}
	return v.mountTmpfs(i)
}

// mountTmpfs makes the volume of a Mount that is not live.
func (v *volumes) mountTmpfs(i int) error {
	m, vol := v.mounts[i], &v.each[i]
	options := fmt.Sprintf("mode=0755,uid=%d,gid=%d", v.owner.UID, v.owner.GID)
	if err := unix.Mount("tmpfs", vol.at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	if m.File {
		name := filepath.Join(vol.at, fileName)
		if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Lchown(name, v.owner.UID, v.owner.GID)); err != nil {
			return err
		}
	} else if err := v.over.adopt(vol.at, true); err != nil {
		return err
	}
	var err error
	vol.file, err = os.Open(vol.at)
	return err
}

// mountFUSE mounts a FUSE file system that nobody serves yet, as fusermount(1) does. Until it is served every access blocks,
// but for mounting and binding its top.
func (v *volumes) mountFUSE(at string) (*os.File, error) {
	fd, err := v.device()
	if err != nil {
		return nil, explainFUSE(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), maxRead)
	if err := unix.Mount("teleswap", at, "fuse.teleswap", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount a FUSE file system (Linux 4.18 lets ordinary users do so): %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), fuseDevice), nil
}

func explainFUSE(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("this machine has no %s: sudo modprobe fuse; in a container, start it with --device %s", fuseDevice, fuseDevice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is not open to every user, as distributions ship it: sudo chmod 0666 %s", fuseDevice, fuseDevice)
	default:
		return fmt.Errorf("open %s: %w", fuseDevice, err)
	}
}

// waitsForDaemon tells whether a look-up in a live volume is needed to lay this one over its path.
func (v *volumes) waitsForDaemon(i int) bool {
	vol := v.each[i]
	if v.mounts[i].Live && v.mounts[i].File {
		return true
	}
	for j, other := range v.each {
		if j != i && v.mounts[j].Live && other.problem == nil && isBelow(vol.target, other.target) {
			return true
		}
	}
	return false
}

// order is that of placing: what is above comes first. Live volumes come last, so that nothing looks into them.
func (v *volumes) order(late bool) []int {
	var all []int
	for i, vol := range v.each {
		if vol.problem == nil && vol.late == late {
			all = append(all, i)
		}
	}
	live := func(i int) int {
		if v.mounts[i].Live && !late {
			return 1
		}
		return 0
	}
	depth := func(i int) int { return strings.Count(v.each[i].target, "/") }
	slices.SortStableFunc(all, func(a, b int) int { return cmp.Or(live(a)-live(b), depth(a)-depth(b)) })
	return all
}

// place lays a volume over its path.
func (v *volumes) place(i int) error {
	m, vol := v.mounts[i], &v.each[i]
	source := vol.at
	if m.File {
		source = filepath.Join(vol.at, fileName)
	}
	if m.Live { // its server knows the owner; and it must not be looked at before it is served
		defer func(idmap *os.File) { v.over.idmap = idmap }(v.over.idmap)
		v.over.idmap = nil
	}
	target, err := v.over.cover(source, filepath.Clean(m.Path), !m.File)
	if err != nil {
		return err
	}
	vol.target = target
	return nil
}

// finish places what had to wait until the daemon serves, and makes read-only what is to be so.
func (v *volumes) finish() error {
	late := v.order(true)
	for i, vol := range v.each {
		if vol.problem != nil || !v.mounts[i].Live {
			continue
		}
		// Until it has been looked at, its top belongs to user 0, whom an ordinary user's namespace does not know: nobody
		// could write (see HAS_UNMAPPED_ID in the kernel's fs/namei.c).
		if err := v.over.adopt(vol.at, false); err != nil && len(late) > 0 {
			return fmt.Errorf("look into the pod's %s: %w", v.mounts[i].Path, err)
		}
	}
	for _, i := range late {
		if err := v.place(i); err != nil {
			return fmt.Errorf("mount the pod's %s: %w", v.mounts[i].Path, err)
		}
	}
	for i, m := range v.mounts {
		if v.each[i].problem != nil || !m.ReadOnly {
			continue
		}
		// Of this one mount; the daemon's way to the file system stays writable.
		flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)
		if err := unix.Mount("", v.each[i].target, "", flags, ""); err != nil {
			return fmt.Errorf("make the pod's %s read-only: %w", m.Path, err)
		}
	}
	return nil
}

// report is what the daemon is told: a descriptor for each volume that has none of the problems.
func (v *volumes) report() (files []*os.File, problems []string) {
	problems = make([]string, len(v.each))
	for i, vol := range v.each {
		if vol.problem != nil {
			problems[i] = vol.problem.Error()
			continue
		}
		files = append(files, vol.file)
	}
	return files, problems
}

// close lets go of the descriptors: a FUSE file system whose server has died must not wait for us.
func (v *volumes) close() {
	for _, vol := range v.each {
		if vol.file != nil {
			_ = vol.file.Close()
		}
	}
}

// isBelow tells whether path is dir or something in it.
func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
