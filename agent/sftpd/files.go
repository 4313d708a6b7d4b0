package sftpd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// readdirBatch is how many names are read from a folder at a time.
const readdirBatch = 512

// resolved follows the symbolic links in folders' names.
func resolved(dirs []string) []string {
	var out []string
	for _, d := range dirs {
		if r, err := filepath.EvalSymlinks(d); err == nil {
			d = r
		}
		out = append(out, filepath.Clean(d))
	}
	return out
}

// openFD opens a file, unless it turns out to be in a refused folder: looked at once it is
// open, there is no way around by links or by swapping one in the meantime.
func (s *server) openFD(name string, flags int, mode uint32) (*os.File, error) {
	var fd int
	err := retry(func() (err error) {
		// Not blocking: to open a FIFO must not hold a worker.
		fd, err = unix.Open(name, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(s.refuse) > 0 {
		real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err != nil || s.refused(real) {
			_ = unix.Close(fd)
			return nil, syscall.EACCES
		}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s *server) refused(real string) bool {
	for _, dir := range s.refuse {
		if real == dir || strings.HasPrefix(real, dir+"/") {
			return true
		}
	}
	return false
}

func (s *server) open(id uint32, name string, pflags uint32, a sftpwire.Attrs) []byte {
	flags := unix.O_RDONLY
	switch {
	case pflags&sftpwire.OpenRead != 0 && pflags&sftpwire.OpenWrite != 0:
		flags = unix.O_RDWR
	case pflags&sftpwire.OpenWrite != 0:
		flags = unix.O_WRONLY
	case pflags&sftpwire.OpenRead == 0:
		return statusAnswer(id, syscall.EINVAL)
	}
	for _, f := range [...]struct {
		ours uint32
		os   int
	}{{sftpwire.OpenAppend, unix.O_APPEND}, {sftpwire.OpenCreate, unix.O_CREAT}, {sftpwire.OpenTrunc, unix.O_TRUNC}, {sftpwire.OpenExcl, unix.O_EXCL}} {
		if pflags&f.ours != 0 {
			flags |= f.os
		}
	}
	mode := uint32(0o644)
	if a.Flags&sftpwire.AttrMode != 0 {
		mode = a.Mode & 0o7777
	}
	f, err := s.openFD(name, flags, mode)
	if err != nil {
		return statusAnswer(id, err)
	}
	if !a.OpenStat {
		return s.remember(id, f, false)
	}
	var st unix.Stat_t
	if err := onFD(f, func(fd int) error { return retry(func() error { return unix.Fstat(fd, &st) }) }); err != nil {
		_ = f.Close()
		return statusAnswer(id, err)
	}
	return appendAttrs(s.remember(id, f, false), &st)
}

func (s *server) opendir(id uint32, name string) []byte {
	f, err := s.openFD(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return statusAnswer(id, err)
	}
	return s.remember(id, f, true)
}

func read(id uint32, h *handle, offset uint64, size uint32) []byte {
	b := make([]byte, 13, 13+min(size, maxRead))
	p := b[13:cap(b)]
	n, err := h.file.ReadAt(p, int64(offset))
	if n == 0 && len(p) > 0 {
		return statusAnswer(id, err)
	}
	b[4] = sftpwire.TypeData
	binary.BigEndian.PutUint32(b[5:], id)
	binary.BigEndian.PutUint32(b[9:], uint32(n))
	return b[:13+n]
}

// writeAt is os.File's, which refuses files opened with O_APPEND: there the kernel
// goes to the end by itself (pwrite(2), BUGS), which is what the client wants.
func writeAt(f *os.File, p []byte, offset int64) error {
	return onFD(f, func(fd int) error {
		for len(p) > 0 {
			var n int
			err := retry(func() (err error) {
				n, err = unix.Pwrite(fd, p, offset)
				return err
			})
			if err != nil {
				return err
			}
			p, offset = p[n:], offset+int64(n)
		}
		return nil
	})
}

func statAnswer(id uint32, stat func(*unix.Stat_t) error) []byte {
	var st unix.Stat_t
	if err := retry(func() error { return stat(&st) }); err != nil {
		return statusAnswer(id, err)
	}
	return appendAttrs(answer(sftpwire.TypeAttrs, id), &st)
}

// readdir answers with as many names as fit, each with its attributes. A name that has gone
// since is left out.
func readdir(id uint32, h *handle) []byte {
	h.dirMu.Lock()
	defer h.dirMu.Unlock()
	if !h.dir {
		return statusAnswer(id, syscall.ENOTDIR)
	}
	var names []byte
	count := uint32(0)
	for len(names) < maxNames {
		if len(h.ahead) == 0 {
			var err error
			if h.ahead, err = h.file.ReadDir(readdirBatch); err != nil {
				if count == 0 {
					return statusAnswer(id, err)
				}
				break // told next time: it is the end, or comes again
			}
		}
		name := h.ahead[0].Name()
		h.ahead = h.ahead[1:]
		var st unix.Stat_t
		err := onFD(h.file, func(fd int) error {
			return retry(func() error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
		})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		count++
		names = sftpwire.AppendString(names, name)
		if err != nil { // a folder that may be listed and not entered: without attributes, as readdir(3) gives it
			names = binary.BigEndian.AppendUint32(sftpwire.AppendString(names, name), 0)
			continue
		}
		names = appendAttrs(sftpwire.AppendString(names, longName(name, &st)), &st)
	}
	b := binary.BigEndian.AppendUint32(answer(sftpwire.TypeName, id), count)
	return append(b, names...)
}

// longName is for people: a line as of "ls -ln".
func longName(name string, st *unix.Stat_t) string {
	mode := os.FileMode(st.Mode & 0o777)
	letter := "-"
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		letter = "d"
	case unix.S_IFLNK:
		letter = "l"
	}
	return fmt.Sprintf("%s%s %d %d %d %d %s %s", letter, mode.String()[1:], st.Nlink, st.Uid, st.Gid, st.Size,
		time.Unix(st.Mtim.Unix()).UTC().Format("Jan _2 15:04 2006"), name)
}

// nameAnswer is that to REALPATH and READLINK.
func nameAnswer(id uint32, name string) []byte {
	b := binary.BigEndian.AppendUint32(answer(sftpwire.TypeName, id), 1)
	return binary.BigEndian.AppendUint32(sftpwire.AppendString(sftpwire.AppendString(b, name), name), 0)
}

// onFD calls f with the file's descriptor, which stays open meanwhile.
func onFD(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// retry calls f again while a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// realpath makes a name absolute and follows its links as far as they lead; what is not there yet
// keeps its name.
func realpath(name string) (string, error) {
	if !filepath.IsAbs(name) {
		name = "/" + name
	}
	name = filepath.Clean(name)
	r, err := filepath.EvalSymlinks(name)
	if errors.Is(err, os.ErrNotExist) {
		return name, nil
	}
	return r, err
}

var errNotSupported = fmt.Errorf("this request is not known: %w", errors.ErrUnsupported)
