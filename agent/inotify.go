package agent

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// inotify tells of changes to files (inotify(7)), not of which: whoever watches looks anyway.
type inotify struct {
	file    *os.File
	changed chan struct{} // capacity 1
	wg      sync.WaitGroup
}

// newInotify fails where the machine's limit on instances is reached
// (fs.inotify.max_user_instances). The caller closes it.
func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &inotify{file: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	n.wg.Go(n.readLoop)
	return n, nil
}

// readLoop reads until Close.
func (n *inotify) readLoop() {
	buf := make([]byte, 64<<10)
	for {
		if _, err := n.file.Read(buf); err != nil {
			return
		}
		select {
		case n.changed <- struct{}{}:
		default:
		}
	}
}

// Watch adds a folder or file.
func (n *inotify) Watch(path string) error {
	const mask = unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF |
		unix.IN_MODIFY | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF
	raw, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	if err := raw.Control(func(fd uintptr) { _, werr = unix.InotifyAddWatch(int(fd), path, mask) }); err != nil {
		return err
	}
	return os.NewSyscallError("inotify_add_watch", werr)
}

// Changed gets a value after a change.
func (n *inotify) Changed() <-chan struct{} { return n.changed }

// Close ends it.
func (n *inotify) Close() error {
	err := n.file.Close()
	n.wg.Wait()
	return err
}
