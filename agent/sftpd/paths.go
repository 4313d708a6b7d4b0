package sftpd

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// pathWork is work for the requests that name files by path.
func pathWork(kind byte, id uint32, q *sftpwire.Decoder) func() []byte {
	status := func(f func() error) func() []byte {
		return checked(q, id, func() []byte { return statusAnswer(id, retry(f)) })
	}
	switch kind {
	case sftpwire.TypeStat:
		name := q.Text()
		return checked(q, id, func() []byte {
			return statAnswer(id, func(st *unix.Stat_t) error { return unix.Stat(name, st) })
		})
	case sftpwire.TypeLstat:
		name := q.Text()
		return checked(q, id, func() []byte {
			return statAnswer(id, func(st *unix.Stat_t) error { return unix.Lstat(name, st) })
		})
	case sftpwire.TypeSetstat:
		name, a := q.Text(), q.Attrs()
		return status(func() error { return setstat(name, a, 0) })
	case sftpwire.TypeRemove:
		name := q.Text()
		return status(func() error { return unix.Unlink(name) })
	case sftpwire.TypeMkdir:
		name, a := q.Text(), q.Attrs()
		mode := uint32(0o755)
		if a.Flags&sftpwire.AttrMode != 0 {
			mode = a.Mode & 0o7777
		}
		return status(func() error { return unix.Mkdir(name, mode) })
	case sftpwire.TypeRmdir:
		name := q.Text()
		return status(func() error { return unix.Rmdir(name) })
	case sftpwire.TypeRename:
		from, to := q.Text(), q.Text()
		return status(func() error { return renameNew(from, to) })
	case sftpwire.TypeSymlink:
		// OpenSSH's order, which all clients follow: the target first, against the draft.
		target, name := q.Text(), q.Text()
		return status(func() error { return unix.Symlink(target, name) })
	case sftpwire.TypeReadlink:
		return nameWork(id, q, os.Readlink)
	case sftpwire.TypeRealpath:
		return nameWork(id, q, realpath)
	}
	return func() []byte { return statusAnswer(id, errNotSupported) }
}

func nameWork(id uint32, q *sftpwire.Decoder, f func(string) (string, error)) func() []byte {
	name := q.Text()
	return checked(q, id, func() []byte {
		result, err := f(name)
		if err != nil {
			return statusAnswer(id, err)
		}
		return nameAnswer(id, result)
	})
}

// extended is work for OpenSSH's extensions.
func (s *server) extended(id uint32, q *sftpwire.Decoder) func() []byte {
	status := func(f func() error) func() []byte {
		return checked(q, id, func() []byte { return statusAnswer(id, retry(f)) })
	}
	switch q.Text() {
	case sftpwire.ExtPosixRename:
		from, to := q.Text(), q.Text()
		return status(func() error { return unix.Rename(from, to) })
	case sftpwire.ExtHardlink:
		from, to := q.Text(), q.Text()
		return status(func() error { return unix.Link(from, to) })
	case sftpwire.ExtLsetstat:
		name, a := q.Text(), q.Attrs()
		return status(func() error { return setstat(name, a, unix.AT_SYMLINK_NOFOLLOW) })
	case sftpwire.ExtFsync:
		return s.withHandle(id, q, func(h *handle, _ *sftpwire.Decoder) func() []byte {
			before := h.wrote
			return func() []byte {
				await(before)
				return statusAnswer(id, h.file.Sync())
			}
		})
	case sftpwire.ExtStatvfs:
		name := q.Text()
		return checked(q, id, func() []byte {
			return statvfsAnswer(id, func(st *unix.Statfs_t) error { return unix.Statfs(name, st) })
		})
	case sftpwire.ExtFstatvfs:
		return s.withHandle(id, q, func(h *handle, _ *sftpwire.Decoder) func() []byte {
			return func() []byte {
				return statvfsAnswer(id, func(st *unix.Statfs_t) error {
					return onFD(h.file, func(fd int) error { return unix.Fstatfs(fd, st) })
				})
			}
		})
	case sftpwire.ExtLimits:
		return func() []byte {
			b := answer(sftpwire.TypeExtendedReply, id)
			for _, n := range [...]uint64{maxPacket, maxRead, maxRead, 0} { // 0: no bound of ours on handles
				b = binary.BigEndian.AppendUint64(b, n)
			}
			return b
		}
	}
	return checked(q, id, func() []byte { return statusAnswer(id, errNotSupported) })
}

func statvfsAnswer(id uint32, statfs func(*unix.Statfs_t) error) []byte {
	var st unix.Statfs_t
	if err := retry(func() error { return statfs(&st) }); err != nil {
		return statusAnswer(id, err)
	}
	frsize := st.Frsize
	if frsize == 0 {
		frsize = st.Bsize
	}
	const readOnly, noSuid = 1, 2 // of SSH_FXE_STATVFS, the same as ST_RDONLY and ST_NOSUID
	fsid := uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
	b := answer(sftpwire.TypeExtendedReply, id)
	for _, n := range [...]uint64{
		uint64(st.Bsize), uint64(frsize), st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Ffree,
		fsid, uint64(st.Flags) & (readOnly | noSuid), uint64(st.Namelen),
	} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// renameNew is RENAME of version 3, which fails where the new name is taken.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	var st unix.Stat_t // this file system cannot do it in one
	if lerr := unix.Lstat(to, &st); lerr == nil {
		return unix.EEXIST
	}
	return unix.Rename(from, to)
}

// setstat sets what the client named; flags may be AT_SYMLINK_NOFOLLOW.
func setstat(name string, a sftpwire.Attrs, flags int) error {
	if a.Flags&sftpwire.AttrSize != 0 {
		if err := unix.Truncate(name, int64(a.Size)); err != nil {
			return err
		}
	}
	if a.Flags&sftpwire.AttrOwner != 0 {
		if err := unix.Fchownat(unix.AT_FDCWD, name, int(int32(a.UID)), int(int32(a.GID)), flags); err != nil {
			return err
		}
	}
	if a.Flags&sftpwire.AttrMode != 0 { // behind the owner, whose change clears set-user-ID
		if err := unix.Fchmodat(unix.AT_FDCWD, name, a.Mode&0o7777, flags); err != nil {
			return err
		}
	}
	if a.Flags&sftpwire.AttrTimes != 0 {
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, times(a), flags)
	}
	return nil
}

func times(a sftpwire.Attrs) []unix.Timespec {
	return []unix.Timespec{
		unix.NsecToTimespec(int64(a.Accessed) * int64(time.Second)),
		unix.NsecToTimespec(int64(a.Modified) * int64(time.Second)),
	}
}

// fsetstat is setstat for an open file, whose name may be gone.
func fsetstat(f *os.File, a sftpwire.Attrs) error {
	return onFD(f, func(fd int) error {
		return retry(func() error {
			if a.Flags&sftpwire.AttrSize != 0 {
				if err := unix.Ftruncate(fd, int64(a.Size)); err != nil {
					return err
				}
			}
			if a.Flags&sftpwire.AttrOwner != 0 {
				if err := unix.Fchown(fd, int(int32(a.UID)), int(int32(a.GID))); err != nil {
					return err
				}
			}
			if a.Flags&sftpwire.AttrMode != 0 {
				if err := unix.Fchmod(fd, a.Mode&0o7777); err != nil {
					return err
				}
			}
			if a.Flags&sftpwire.AttrTimes != 0 {
				times := times(a)
				return unix.Futimes(fd, []unix.Timeval{
					unix.NsecToTimeval(times[0].Nano()), unix.NsecToTimeval(times[1].Nano()),
				})
			}
			return nil
		})
	})
}
