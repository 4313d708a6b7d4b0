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
	hostname   = "/etc/hostname"
	nsswitch   = "/etc/nsswitch.conf"
	// maxLinks is how many symbolic links a path may have, as in the kernel.
	maxLinks = 40
	// storeHere is always there, never a mount, and nobody needs it meanwhile.
	storeHere = "/proc/self/task"
)

// nameCaches are the sockets of daemons that answer name look-ups for the C library, bypassing /etc/resolv.conf: the
// laptop's know nothing of the cluster. They are covered by /dev/null.
var nameCaches = [...]string{"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"}

// setUpFiles lays the pod's files over the laptop's, in the sandbox's mount namespace only. The caller goes on with its
// volumes, and must release the overlay.
func setUpFiles(spec *Spec) (*overlay, error) {
	// What the laptop mounts later still appears in the sandbox; what the sandbox mounts never leaves it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("keep the sandbox's mounts to itself: %w", err)
	}
	files := map[string][]byte{}
	if spec.ResolvConf != nil {
		files[resolvConf] = spec.ResolvConf
	}
	if spec.Hosts != nil {
		files[hosts] = spec.Hosts
	}
	if spec.Hostname != "" {
		files[hostname] = []byte(spec.Hostname + "\n") // hostname(5), and as container runtimes write it
	}
	if b, err := os.ReadFile(nsswitch); err == nil && spec.ResolvConf != nil {
		if changed := onlyFilesAndDNS(b); string(changed) != string(b) {
			files[nsswitch] = changed
		}
	}
	o, err := newOverlay(storeHere)
	if err != nil {
		return nil, err
	}
	if err := o.layFiles(files); err != nil {
		o.release()
		return nil, err
	}
	if spec.ResolvConf == nil {
		return o, nil
	}
	for _, socket := range nameCaches {
		if _, err := os.Lstat(socket); err == nil {
			_ = unix.Mount("/dev/null", socket, "", unix.MS_BIND, "")
		}
	}
	return o, nil
}

// layFiles makes each path show the given bytes. They live in the store, which has no name anywhere once it is released.
func (o *overlay) layFiles(files map[string][]byte) error {
	for path, content := range files {
		source := o.fresh("file")
		if err := os.WriteFile(source, content, 0o644); err != nil {
			return fmt.Errorf("write the sandbox's %s: %w", path, err)
		}
		if err := os.Chmod(source, 0o644); err != nil { // whatever the umask
			return fmt.Errorf("write the sandbox's %s: %w", path, err)
		}
		if _, err := o.cover(source, path, false); err != nil {
			return fmt.Errorf("lay the pod's %s over the laptop's: %w", path, err)
		}
	}
	return nil
}

// resolve follows path's symbolic links. target is where it ends; when that does not exist, parent is its nearest
// existing directory and missing what comes below. What the user may not look into counts as empty: for the command it
// is. A path through a file has that file's directory for a parent, and the file's name in missing.
func resolve(path string) (target, parent, missing string, err error) {
	at, rest := "/", strings.Split(strings.TrimPrefix(path, "/"), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		st, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			below := filepath.Join(rest...)
			return filepath.Join(at, below), at, below, nil
		case err != nil:
			return "", "", "", err
		case st.Mode()&fs.ModeSymlink == 0 && !st.IsDir() && len(rest) > 1:
			below := filepath.Join(rest...)
			return filepath.Join(at, below), at, below, nil
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
