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

const (
	resolvConf = "/etc/resolv.conf"
	hosts      = "/etc/hosts"
	nsswitch   = "/etc/nsswitch.conf"
	// maxLinks is how many symbolic links a path may have, as in the kernel.
	maxLinks = 40
)

// nameCaches are the sockets of daemons that answer name look-ups for the C library, bypassing /etc/resolv.conf: the
// laptop's know nothing of the cluster. They are covered by /dev/null.
var nameCaches = [...]string{"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"}

// setUpFiles lays the pod's files over the laptop's, in the sandbox's mount namespace only.
func setUpFiles(spec *Spec) error {
	// What the laptop mounts later still appears in the sandbox; what the sandbox mounts never leaves it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep the sandbox's mounts to itself: %w", err)
	}
	files := map[string][]byte{}
	if spec.ResolvConf != nil {
		files[resolvConf] = spec.ResolvConf
	}
	if spec.Hosts != nil {
		files[hosts] = spec.Hosts
	}
	if b, err := os.ReadFile(nsswitch); err == nil && spec.ResolvConf != nil {
		if changed := onlyFilesAndDNS(b); string(changed) != string(b) {
			files[nsswitch] = changed
		}
	}
	if err := layOver(files); err != nil {
		return err
	}
	if spec.ResolvConf == nil {
		return nil
	}
	for _, socket := range nameCaches {
		if _, err := os.Lstat(socket); err == nil {
			_ = unix.Mount("/dev/null", socket, "", unix.MS_BIND, "")
		}
	}
	return nil
}

// layOver makes each path show the given bytes. They live on a tmpfs that has no name anywhere.
func layOver(files map[string][]byte) error {
	if len(files) == 0 {
		return nil
	}
	store, release, err := newStore()
	if err != nil {
		return err
	}
	defer release()
	i := 0
	for path, content := range files {
		i++
		source := filepath.Join(store, fmt.Sprintf("file%d", i))
		if err := os.WriteFile(source, content, 0o644); err != nil {
			return fmt.Errorf("write the sandbox's %s: %w", path, err)
		}
		if err := os.Chmod(source, 0o644); err != nil { // whatever the umask
			return fmt.Errorf("write the sandbox's %s: %w", path, err)
		}
		if err := layOne(store, fmt.Sprintf("dir%d", i), source, path); err != nil {
			return fmt.Errorf("lay the pod's %s over the laptop's: %w", path, err)
		}
	}
	return nil
}

// newStore mounts a tmpfs on a directory that the sandbox will see again as it was once release is called; what was
// bound elsewhere by then stays.
func newStore() (string, func(), error) {
	const over = "/proc/self/task" // always there, never a mount, and nobody needs it meanwhile
	if err := unix.Mount("tmpfs", over, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return "", nil, fmt.Errorf("mount a tmpfs in the sandbox: %w", err)
	}
	return over, func() { _ = unix.Unmount(over, unix.MNT_DETACH) }, nil
}

// layOne binds source over path. Where path does not exist, its nearest existing parent is rebuilt in the store with
// its old children bound into it, and path's missing part added.
func layOne(store, name, source, path string) error {
	target, parent, missing, err := resolve(path)
	if err != nil {
		return err
	}
	if missing == "" {
		return unix.Mount(source, target, "", unix.MS_BIND, "")
	}
	rebuilt := filepath.Join(store, name)
	if err := rebuild(parent, rebuilt); err != nil {
		return err
	}
	file := filepath.Join(rebuilt, missing)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(source, file, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount(rebuilt, parent, "", unix.MS_BIND|unix.MS_REC, "")
}

// rebuild makes dir's like: its children are bound into it, its symbolic links made again.
func rebuild(dir, like string) error {
	children, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := os.Mkdir(like, 0o755); err != nil {
		return err
	}
	for _, c := range children {
		from, to := filepath.Join(dir, c.Name()), filepath.Join(like, c.Name())
		if err := rebuildChild(c, from, to); err != nil {
			return fmt.Errorf("keep %s: %w", from, err)
		}
	}
	return nil
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

// resolve follows path's symbolic links. target is where it ends; when that does not exist, parent is its nearest
// existing directory and missing what comes below.
func resolve(path string) (target, parent, missing string, err error) {
	at, rest := "/", strings.Split(strings.TrimPrefix(path, "/"), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		st, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			below := filepath.Join(rest...)
			return filepath.Join(at, below), at, below, nil
		case err != nil:
			return "", "", "", err
		case st.Mode()&fs.ModeSymlink == 0:
			at, rest = next, rest[1:]
			continue
		}
		if links++; links > maxLinks {
			return "", "", "", fmt.Errorf("%s: %w", path, unix.ELOOP)
		}
		link, err := os.Readlink(next)
		if err != nil {
			return "", "", "", err
		}
		if filepath.IsAbs(link) {
			at = "/"
		}
		rest = append(strings.Split(strings.Trim(filepath.Clean(link), "/"), "/"), rest[1:]...)
	}
	return at, "", "", nil
}

// onlyFilesAndDNS changes the hosts line of an nsswitch.conf(5): other services than files and dns would answer from the
// laptop's point of view (resolve, mdns, mymachines, libvirt …), or keep dns from being asked.
func onlyFilesAndDNS(conf []byte) []byte {
	lines := strings.SplitAfter(string(conf), "\n")
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "hosts:") {
			lines[i] = "hosts: files dns\n"
		}
	}
	return []byte(strings.Join(lines, ""))
}
