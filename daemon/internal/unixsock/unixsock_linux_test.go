package unixsock

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatComesBesideBytes(t *testing.T) {
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	out, err := net.DialUnix("unix", nil, lis.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	in, err := lis.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	cred, err := Peer(in)
	if err != nil || int(cred.Pid) != os.Getpid() || int(cred.Uid) != os.Geteuid() || int(cred.Gid) != os.Getegid() {
		t.Errorf("peer %+v, %v", cred, err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, _, err := out.WriteMsgUnix([]byte("x"), unix.UnixRights(int(w.Fd()), int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(2*4))
	_, n, _, _, err := in.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(oob[:n], "given")
	if err != nil || len(files) != 2 || files[0].Name() != "given" {
		t.Fatalf("files %v, %v", files, err)
	}
	for i, f := range files {
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %d is inherited: %x, %v", i, flags, err)
		}
		if _, err := f.WriteString("ab"[i : i+1]); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	}
	got := make([]byte, 3)
	if n, err := r.Read(got); err != nil || string(got[:n]) != "ab" {
		t.Errorf("written to them: %q, %v", got[:n], err)
	}

	if files, err := Files(nil, ""); len(files) != 0 || err != nil {
		t.Errorf("of none: %v, %v", files, err)
	}
}
