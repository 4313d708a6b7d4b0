package volumes

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fuseDevice must be open to the user, as distributions ship it.
const fuseDevice = "/dev/fuse"

// CanMount says why this user cannot mount live volumes outside a sandbox, or nil: only root may by himself, all others by
// fusermount3.
func CanMount() error {
	f, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if _, err := fusermount(); err != nil {
		return fmt.Errorf("%w: there is no fusermount3 here (package fuse3)", ErrNoFUSE)
	}
	return nil
}

// fusermount is the set-uid program by which users mount and unmount (fusermount3(1)).
func fusermount() (string, error) {
	path, err := exec.LookPath("fusermount3")
	if err == nil {
		return path, nil
	}
	return exec.LookPath("fusermount")
}

// unmount takes a mount away at once, whoever still uses it: who does gets errors from then on.
func unmount(dir string) error {
	if os.Geteuid() == 0 {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	program, err := fusermount()
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if out, err := exec.Command(program, "-u", "-z", "--", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmountBelow unmounts all that is mounted at or below a directory. It fails where something stays mounted.
func unmountBelow(dir string) error {
	points, err := mountedBelow(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		errs = append(errs, unmount(p))
	}
	if len(points) == 0 {
		return nil
	}
	left, err := mountedBelow(dir)
	if err == nil && len(left) == 0 {
		return nil
	}
	return errors.Join(append(errs, err, fmt.Errorf("still mounted: %s", strings.Join(left, ", ")))...)
}

// mountedBelow are the mount points at or below a directory, in the order in which they were made.
func mountedBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var points []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		const point = 4
		if len(fields) <= point {
			continue
		}
		p := unescape(fields[point])
		if p == dir || strings.HasPrefix(p, dir+"/") {
			points = append(points, p)
		}
	}
	return points, lines.Err()
}

// unescape undoes what mountinfo does to blanks and the like: three octal digits (proc_pid_mountinfo(5)).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			var n int
			if _, err := fmt.Sscanf(s[i+1:i+4], "%03o", &n); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
