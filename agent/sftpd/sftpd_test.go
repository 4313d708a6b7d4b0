package sftpd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

func TestMain(m *testing.M) {
	unix.Umask(0) // as the agent: the client's own umask has its say there
	goleak.VerifyTestMain(m)
}

// serve runs a server until the test ends, and returns the client's end.
func serve(t *testing.T, cfg Config) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Serve(far, cfg)
		_ = far.Close()
	}()
	t.Cleanup(func() {
		_ = near.Close()
		if err := <-done; err != nil && !errors.Is(err, sftpwire.ErrMalformed) {
			t.Error(err)
		}
	})
	return near
}

func client(t *testing.T, cfg Config) *sftp.Client {
	t.Helper()
	conn := serve(t, cfg)
	c, err := sftp.NewClientPipe(conn, conn, sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestReadWrite(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	name := filepath.Join(dir, "big")
	want := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.1 MiB
	f, err := c.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); !bytes.Equal(got, want) || err != nil {
		t.Errorf("wrote %d bytes, %v", len(got), err)
	}
	if f, err = c.Open(name); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := f.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("read %d bytes, %v", got.Len(), err)
	}
	if n, err := f.ReadAt(make([]byte, 10), int64(len(want))-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	_ = f.Close()
	if _, err := f.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("read after close")
	}
}

func TestAppendGoesToTheEnd(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	name := filepath.Join(dir, "log")
	if err := os.WriteFile(name, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := c.OpenFile(name, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("two\n"), 0); err != nil { // where the client thinks the end is
		t.Fatal(err)
	}
	_ = f.Close()
	if got, _ := os.ReadFile(name); string(got) != "one\ntwo\n" {
		t.Errorf("got %q", got)
	}
}

func TestHandleOutlivesItsName(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	name := filepath.Join(dir, "temporary")
	f, err := c.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5); err != nil {
		t.Error(err)
	}
	if err := f.Chmod(0o640); err != nil {
		t.Error(err)
	}
	st, err := f.Stat()
	if err != nil || st.Size() != 5 || st.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v", st, err)
	}
	_ = f.Close()
}

func TestNames(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(at(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Rename(at("a"), at("b")); err == nil || !strings.Contains(err.Error(), "EEXIST") {
		t.Errorf("rename over a file: %v", err)
	}
	steps := []struct {
		name string
		err  error
	}{
		{"posix rename", c.PosixRename(at("a"), at("b"))},
		{"mkdir", c.Mkdir(at("d"))},
		{"rename", c.Rename(at("b"), at("d/b"))},
		{"hard link", c.Link(at("d/b"), at("hard"))},
		{"symlink", c.Symlink("d/b", at("soft"))},
		{"dangling symlink", c.Symlink("../nowhere", at("dangling"))},
		{"chmod", c.Chmod(at("hard"), 0o750)},
		{"truncate", c.Truncate(at("soft"), 3)},
		{"chtimes", c.Chtimes(at("hard"), time.Unix(1000, 0), time.Unix(2000, 0))},
		{"chown to itself", c.Chown(at("hard"), os.Getuid(), os.Getgid())},
	}
	for _, s := range steps {
		if s.err != nil {
			t.Errorf("%s: %v", s.name, s.err)
		}
	}
	if target, err := c.ReadLink(at("soft")); target != "d/b" || err != nil {
		t.Errorf("link to %q, %v", target, err)
	}
	st, err := os.Stat(at("hard"))
	if err != nil || st.Size() != 3 || st.Sys().(*syscall.Stat_t).Nlink != 2 || st.ModTime().Unix() != 2000 {
		t.Errorf("got %+v, %v", st, err)
	}
	if st.Mode() != 0o750 {
		t.Errorf("mode %v", st.Mode())
	}
	if st, err := c.Lstat(at("dangling")); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("lstat: %v, %v", st, err)
	}
	if real, err := c.RealPath(at("soft")); real != at("d/b") || err != nil {
		t.Errorf("real path %q, %v", real, err)
	}
	for _, name := range []string{"dangling", "soft", "hard", "d/b"} {
		if err := c.Remove(at(name)); err != nil {
			t.Error(err)
		}
	}
	if err := c.RemoveDirectory(at("d")); err != nil {
		t.Error(err)
	}
}

// The errno of each failure is in its text where version 3 has no code for it.
func TestErrors(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	full := filepath.Join(dir, "full")
	if err := errors.Join(os.Mkdir(full, 0o700), os.WriteFile(filepath.Join(full, "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	tests := []struct {
		want string
		err  error
	}{
		{"ENOTEMPTY", c.RemoveDirectory(full)},
		{"EEXIST", c.Mkdir(full)},
		{"ENOTDIR", c.RemoveDirectory(filepath.Join(full, "x"))},
		{"EISDIR", second(c.OpenFile(full, os.O_WRONLY))},
		{"ENAMETOOLONG", c.Mkdir(filepath.Join(dir, strings.Repeat("n", 300)))},
		{"EEXIST", second(c.OpenFile(filepath.Join(full, "x"), os.O_WRONLY|os.O_CREATE|os.O_EXCL))},
	}
	for _, tt := range tests {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want+":") {
			t.Errorf("got %v, want %s", tt.err, tt.want)
		}
	}
	f, err := c.OpenFile("/dev/full", os.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "ENOSPC: no space left on device") {
		t.Errorf("got %v", err)
	}
	_ = f.Close()
	if got := statusAnswer(1, &os.PathError{Op: "open", Err: syscall.EROFS}); !bytes.Contains(got, []byte("EROFS: read-only file system")) {
		t.Errorf("got %q", got)
	}
	for errno, want := range map[syscall.Errno]uint32{syscall.EACCES: sftpwire.StatusDenied, syscall.EPERM: sftpwire.StatusDenied, syscall.ENOENT: sftpwire.StatusNoSuchFile, syscall.EBUSY: sftpwire.StatusFailure} {
		if got := binary.BigEndian.Uint32(statusAnswer(1, errno)[9:]); got != want {
			t.Errorf("%v: status %d, want %d", errno, got, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	if err := errors.Join(os.Mkdir(keys, 0o700), os.WriteFile(filepath.Join(keys, "tls.key"), []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(keys, filepath.Join(dir, "way")), os.WriteFile(filepath.Join(dir, "keysnot"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := client(t, Config{Refuse: []string{keys}})
	for _, name := range []string{"keys/tls.key", "way/tls.key", "way/../keys/tls.key"} {
		if _, err := c.Open(dir + "/" + name); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Open("/proc/self/root" + keys + "/tls.key"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("by /proc: %v", err)
	}
	if _, err := c.ReadDir(keys); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the folder: %v", err)
	}
	f, err := c.Open(filepath.Join(dir, "keysnot"))
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}

func TestManyNames(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	const n = 10000
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%05d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := c.ReadDir(dir)
	if err != nil || len(entries) != n {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	stat := entries[0].Sys().(*sftp.FileStat)
	if len(stat.Extended) != 1 || stat.Extended[0].ExtType != sftpwire.StatExtension {
		t.Fatalf("extended attributes %v", stat.Extended)
	}
	var want unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, entries[0].Name()), &want); err != nil {
		t.Fatal(err)
	}
	data := []byte(stat.Extended[0].ExtData)
	if ino, mtime := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[36:]); ino != want.Ino || int64(mtime) != want.Mtim.Nano() {
		t.Errorf("inode %d, mtime %d, want %d, %d", ino, mtime, want.Ino, want.Mtim.Nano())
	}
}

// A folder that may be listed and not entered gives its names.
func TestNamesWithoutAttributes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else for a moment")
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "name"), nil, 0o600), os.Chmod(dir, 0o444)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const nobody = 65534
	if _, err := unix.SetfsuidRetUid(nobody); err != nil { // of this thread alone
		t.Fatal(err)
	}
	got := readdir(7, &handle{file: f, dir: true})
	if _, err := unix.SetfsuidRetUid(0); err != nil {
		t.Fatal(err)
	}
	want := sftpwire.AppendString(binary.BigEndian.AppendUint32(answer(sftpwire.TypeName, 7), 1), "name")
	want = binary.BigEndian.AppendUint32(sftpwire.AppendString(want, "name"), 0)
	if !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStatVFS(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	got, err := c.StatVFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	var want unix.Statfs_t
	if err := unix.Statfs(dir, &want); err != nil {
		t.Fatal(err)
	}
	if got.Bsize != uint64(want.Bsize) || got.Blocks != want.Blocks || got.Namemax != uint64(want.Namelen) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestConcurrentFiles(t *testing.T) {
	c, dir := client(t, Config{}), t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			name := filepath.Join(dir, fmt.Sprint(i))
			want := bytes.Repeat([]byte{byte(i)}, 70000)
			f, err := c.Create(name)
			if err != nil {
				t.Error(err)
				return
			}
			_, werr := f.Write(want)
			if err := errors.Join(werr, f.Sync(), f.Close(), c.PosixRename(name, name+"-done")); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(name + "-done"); !bytes.Equal(got, want) || err != nil {
				t.Errorf("file %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

// request builds a packet.
func request(kind byte, id uint32, fields ...any) []byte {
	b := answer(kind, id)
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b = sftpwire.AppendString(b, f)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, f)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, f)
		}
	}
	return finish(b)
}

// Pipelined requests have the effect of their order; malformed ones are answered.
func TestPipelined(t *testing.T) {
	conn, dir := serve(t, Config{}), t.TempDir()
	name := filepath.Join(dir, "f")
	requests := [][]byte{
		request(sftpwire.TypeInit, 3),
		request(sftpwire.TypeOpen, 1, name, uint32(sftpwire.OpenWrite|sftpwire.OpenCreate), uint32(0)),
		request(sftpwire.TypeMkdir, 2, filepath.Join(dir, "d"), uint32(0)),
		request(sftpwire.TypeWrite, 3, "1", uint64(0), "hello"),
		request(sftpwire.TypeExtended, 4, sftpwire.ExtFsync, "1"),
		request(sftpwire.TypeClose, 5, "1"),
		request(sftpwire.TypeWrite, 6, "1", uint64(0), "late"),
		request(sftpwire.TypeRename, 7, name, filepath.Join(dir, "d/f")),
		request(sftpwire.TypeExtended, 8, "unheard@of"),
		request(99, 9),
		request(sftpwire.TypeRead, 10, "1"),
		request(sftpwire.TypeMkdir, 11),
		request(sftpwire.TypeOpen, 12, name, uint32(0), uint32(0)),
		request(sftpwire.TypeReaddir, 13, "zz"),
	}
	want := map[uint32]uint32{
		2: sftpwire.StatusOK, 3: sftpwire.StatusOK, 4: sftpwire.StatusOK, 5: sftpwire.StatusOK, 6: sftpwire.StatusFailure, 7: sftpwire.StatusOK, 8: sftpwire.StatusUnsupported,
		9: sftpwire.StatusUnsupported, 10: sftpwire.StatusFailure, 11: sftpwire.StatusBadMessage, 12: sftpwire.StatusFailure, 13: sftpwire.StatusFailure,
	}
	go func() {
		for _, r := range requests {
			if _, err := conn.Write(r); err != nil {
				t.Error(err)
			}
		}
	}()
	for range requests {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			t.Fatal(err)
		}
		packet := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(conn, packet); err != nil {
			t.Fatal(err)
		}
		id := binary.BigEndian.Uint32(packet[1:])
		if code, ok := want[id]; ok && packet[0] == sftpwire.TypeStatus {
			if got := binary.BigEndian.Uint32(packet[5:]); got != code {
				t.Errorf("request %d: status %d, want %d: %q", id, got, code, packet[9:])
			}
			delete(want, id)
		}
	}
	if len(want) > 0 {
		t.Errorf("not answered with a status: %v", want)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "d/f")); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestOrderedWrites: a client that does not wait finds its writes done in their order, over one another and at the end of a
// file, and fsync behind them.
func TestOrderedWrites(t *testing.T) {
	conn, dir := serve(t, Config{}), t.TempDir()
	const writes = 200
	name := func(i uint32) string { return filepath.Join(dir, strconv.Itoa(int(i))) }
	requests := [][]byte{
		request(sftpwire.TypeOpen, 1, name(1), uint32(sftpwire.OpenWrite|sftpwire.OpenCreate|sftpwire.OpenAppend), uint32(0)),
		request(sftpwire.TypeMkdir, 2, name(0), uint32(0)), // alone, so that the files are open in their order
		request(sftpwire.TypeOpen, 3, name(2), uint32(sftpwire.OpenWrite|sftpwire.OpenCreate), uint32(0)),
		request(sftpwire.TypeRmdir, 4, name(0)),
	}
	var want strings.Builder
	for i := range uint32(writes) {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		requests = append(requests, request(sftpwire.TypeWrite, 100+2*i, "1", uint64(0), line), request(sftpwire.TypeWrite, 101+2*i, "2", uint64(0), fmt.Sprintf("%06d", i)))
	}
	requests = append(requests, request(sftpwire.TypeExtended, 5, sftpwire.ExtFsync, "1"), request(sftpwire.TypeExtended, 6, sftpwire.ExtFsync, "2"))
	go func() {
		for _, r := range requests {
			if _, err := conn.Write(r); err != nil {
				t.Error(err)
			}
		}
	}()
	r := bufio.NewReader(conn)
	for range requests {
		packet, err := readPacket(r)
		if err != nil {
			t.Fatal(err)
		}
		if packet[0] == sftpwire.TypeStatus && binary.BigEndian.Uint32(packet[5:]) != sftpwire.StatusOK {
			t.Errorf("got %q", packet)
		}
	}
	if got, err := os.ReadFile(name(1)); string(got) != want.String() || err != nil {
		t.Errorf("appended out of order: %d bytes, %v", len(got), err)
	}
	if got, err := os.ReadFile(name(2)); string(got) != fmt.Sprintf("%06d", writes-1) || err != nil {
		t.Errorf("the last write is not the last: %q, %v", got, err)
	}
}

// TestOpenStat: who asks for it has a file's attributes with its handle; others have the handle alone.
func TestOpenStat(t *testing.T) {
	conn, name := serve(t, Config{}), filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for _, c := range []struct {
		request []byte
		more    bool
	}{
		{request(sftpwire.TypeOpen, 1, name, uint32(sftpwire.OpenRead), uint32(0)), false},
		{request(sftpwire.TypeOpen, 2, name, uint32(sftpwire.OpenRead), uint32(sftpwire.AttrExtended), uint32(1), sftpwire.ExtOpenStat, ""), true},
		{request(sftpwire.TypeOpen, 3, name, uint32(sftpwire.OpenRead), uint32(sftpwire.AttrExtended), uint32(1), "other@example.com", ""), false},
	} {
		if _, err := conn.Write(c.request); err != nil {
			t.Fatal(err)
		}
		packet, err := readPacket(r)
		if err != nil || packet[0] != sftpwire.TypeHandle {
			t.Fatalf("got %q, %v", packet, err)
		}
		q := sftpwire.Decoder{Rest: packet[5:]}
		q.Text()
		if (len(q.Rest) > 0) != c.more {
			t.Errorf("%d bytes behind the handle", len(q.Rest))
		}
		if a := q.Attrs(); c.more && (a.Size != 5 || a.Mode&0o777 != 0o640 || q.Err != nil) {
			t.Errorf("got %+v, %v", a, q.Err)
		}
	}
}

// Whatever the bytes of a request, it is taken or answered; none is carried out here.
func FuzzRequest(f *testing.F) {
	f.Add(request(sftpwire.TypeOpen, 1, "/dev/null", uint32(sftpwire.OpenRead), uint32(0)))
	f.Add(request(sftpwire.TypeWrite, 1, "1", uint64(7), "bytes"))
	f.Add(request(sftpwire.TypeSetstat, 1, "/", uint32(sftpwire.AttrSize|sftpwire.AttrOwner|sftpwire.AttrMode|sftpwire.AttrTimes), uint64(1), uint64(2), uint32(3), uint64(4)))
	f.Add(request(sftpwire.TypeExtended, 1, sftpwire.ExtFsync, "1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		packet, err := readPacket(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		q := sftpwire.Decoder{Rest: packet}
		kind, id := q.Byte(), q.Uint32()
		s := &server{handles: map[string]*handle{"1": {}}}
		_ = parallel(kind, q)
		if s.work(kind, id, q) == nil {
			t.Errorf("a request of kind %d is not answered", kind)
		}
	})
}
