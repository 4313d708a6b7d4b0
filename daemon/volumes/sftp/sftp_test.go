package sftp

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	pkgsftp "github.com/pkg/sftp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is one of a server of another make.
func client(t *testing.T) *Client {
	t.Helper()
	near, far := net.Pipe()
	server, err := pkgsftp.NewServer(far)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve() }() // ends with the connection
	c, err := New(near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		<-c.Ended()
		_ = server.Close()
	})
	return c
}

func TestFiles(t *testing.T) {
	c, dir := client(t), t.TempDir()
	name := filepath.Join(dir, "f")
	f, _, err := c.Open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644).Opened()
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789"), 20_000)
	var calls []*Call
	for off := 0; off < len(want); off += c.Packet() {
		calls = append(calls, f.Write(want[off:min(off+c.Packet(), len(want))], int64(off)))
	}
	for _, call := range calls {
		if err := call.Err(); err != nil {
			t.Error(err)
		}
	}
	got := make([]byte, len(want)+100)
	if n, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := f.Read(got[:10], int64(len(want))).Count(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %v", err)
	}
	size := int64(5)
	if err := f.Setstat(Change{Size: &size}).Err(); err != nil {
		t.Error(err)
	}
	if st, err := f.Stat().Attr(); err != nil || st.Size != 5 || st.Mode&0o777 == 0 {
		t.Errorf("got %+v, %v", st, err)
	}
	if err := f.Close().Err(); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	c, dir := client(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]*Call{
		"mkdir": c.Mkdir(at("d"), 0o700), "symlink": c.Symlink("f", at("soft")), "link": c.Link(at("f"), at("hard")),
	} {
		if err := call.Err(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.Rename(at("hard"), at("d/moved")).Err(); err != nil {
		t.Error(err)
	}
	if link, err := c.Readlink(at("soft")).Name(); link != "f" || err != nil {
		t.Errorf("a link to %q, %v", link, err)
	}
	all, whole, err := c.ReadDir(dir, 0)
	if len(all) != 3 || !whole || err != nil {
		t.Errorf("got %v, %v, %v", all, whole, err)
	}
	if s, err := c.Statvfs(dir); err != nil || s.Namemax == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := c.Remove(at("none")).Err(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove nothing: %v", err)
	}
	if _, _, err := c.ReadDir(at("none"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list nothing: %v", err)
	}
	_ = c.Close()
	<-c.Ended()
	if _, err := c.Lstat(dir).Attr(); !errors.Is(err, ErrLost) {
		t.Errorf("once closed: %v", err)
	}
}

// FuzzAnswers: whatever a server sends, each request ends.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 0, 0, 5, 2, 0, 0, 0, 3, 0, 0, 0, 9, 105, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 5, 2, 0, 0, 0, 3, 0, 0, 0, 10, 103, 0, 0, 0, 2, 0, 0, 0, 1, 7})
	f.Add([]byte{0, 0, 0, 5, 2, 0, 0, 0, 3, 0, 0, 0, 17, 104, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 4, 'n', 'a', 'm', 'e'})
	f.Fuzz(func(t *testing.T, answers []byte) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }() // ends with near
		go func() {                                     // ends with near
			_, _ = far.Write(answers)
			_ = far.Close()
		}()
		c, err := New(near)
		if err != nil {
			return
		}
		file := &File{client: c, handle: "h"}
		st, rd, name, open := c.Lstat("/"), file.Read(make([]byte, 10), 0), c.Readlink("/"), c.Open("/", 0, 0)
		_, _ = st.Attr()
		_, _ = rd.Count()
		_, _ = name.Name()
		_, _, _ = open.Opened()
		_ = c.Close()
		<-c.Ended()
	})
}
