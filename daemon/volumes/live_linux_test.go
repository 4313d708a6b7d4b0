package volumes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/volumes/sftp"
)

const childArg = "__child"

// childMain plays the user's command in the sandbox.
func childMain(args []string) int {
	switch args[0] {
	case "list": // N: the entries of DIR with their attributes
		entries, err := os.ReadDir(args[1])
		for _, e := range entries {
			if _, serr := e.Info(); serr != nil {
				err = serr
			}
		}
		fmt.Println(len(entries), err)
	case "walk": // looks at each of N files in DIR, without listing it
		n, err := strconv.Atoi(args[2])
		for i := 0; i < n && err == nil; i++ {
			_, err = os.Lstat(filepath.Join(args[1], strconv.Itoa(i)))
		}
		fmt.Println(err)
	case "socket": // listens on a unix socket at PATH, moves it and connects to it
		return childSocket(args[1])
	case "secret":
		return childSecret(args[1], args[2])
	}
	return 0
}

func childSocket(path string) int {
	lis, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Rename(path, path+".moved")); err != nil {
		fmt.Println(err)
		return 1
	}
	go func() {
		if c, err := lis.Accept(); err == nil {
			_, _ = c.Write([]byte("spoken"))
			_ = c.Close()
		}
	}()
	c, err := net.Dial("unix", path+".moved")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	said, err := io.ReadAll(c)
	st, serr := os.Stat(path + ".moved")
	fmt.Println(string(said), err, st.Mode(), serr, os.Remove(path+".moved"))
	return 0
}

// TestLiveSockets: sockets and FIFOs in a live volume work among the sandbox's processes, and are not the pod's.
func TestLiveSockets(t *testing.T) {
	p := newPod(t)
	p.mkdir("data")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := p.sh([]place{liveAt("/data", p.at("data"))}, fmt.Sprintf(`
		%s __child socket /data/sock
		mkfifo /data/fifo; ls /data; (echo through > /data/fifo) & cat /data/fifo; wait
		mkfifo /data/fifo 2>&1 | sed 's/.*: //'; rm /data/fifo; ls /data`, exe))
	if want := "spoken <nil> Srw------- <nil> <nil>\nfifo\nthrough\nFile exists\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if got := p.tree(); got != "data/" {
		t.Errorf("the pod has %s", got)
	}
}

// childSecret reads and tries to write a synced volume and a file, and waits for the volume to change.
func childSecret(dir, file string) int {
	token := filepath.Join(dir, "token")
	for _, path := range []string{token, file} {
		b, err := os.ReadFile(path)
		fmt.Println(path, string(b), err)
	}
	st, err := os.Stat(file)
	fmt.Println(st.Mode(), err)
	_, err = os.OpenFile(token, os.O_WRONLY, 0)
	fmt.Println("write:", errors.Unwrap(err))
	_, err = os.Create(filepath.Join(dir, "mine"))
	fmt.Println("create:", errors.Unwrap(err))
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return 1
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		return 1
	}
	fmt.Println("watching")
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return 1
		}
		for at := 0; at < n; {
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			size := int(binary.NativeEndian.Uint32(buf[at+12:]))
			name := string(bytes.TrimRight(buf[at+unix.SizeofInotifyEvent:at+unix.SizeofInotifyEvent+size], "\x00"))
			at += unix.SizeofInotifyEvent + size
			if mask&unix.IN_MOVED_TO != 0 && name == "..data" {
				b, err := os.ReadFile(token)
				fmt.Println("MOVED_TO", name, "\nnow", string(b), err)
				return 0
			}
		}
	}
}

func liveAt(path, pod string) place {
	return place{Mount: sandbox.Mount{Path: path, Live: true}, pod: pod}
}

// TestLiveFiles: what the process does to a live volume's files is done in the pod, and the other way round.
func TestLiveFiles(t *testing.T) {
	p := newPod(t)
	p.write("data/from-pod", "hello\n")
	dir := p.at("data")
	out := p.sh([]place{liveAt("/data", dir)}, `
		cat /data/from-pod
		echo 'from the sandbox' > /data/new; cat /data/new
		echo more >> /data/new
		mkdir -p /data/a/b; mv /data/new /data/a/b/moved
		ln -s b/moved /data/a/link; readlink /data/a/link; cat /data/a/link
		ln /data/a/b/moved /data/hard
		chmod 0600 /data/hard; stat -c %a /data/hard
		(umask 0; mkdir -m 0770 /data/dir; : > /data/open); stat -c '%a' /data/dir /data/open
		touch -d @1000000000 /data/hard; stat -c %Y /data/hard
		printf 0123456789 > /data/cut; truncate -s 4 /data/cut; cat /data/cut; echo
		rm /data/from-pod; rmdir /data/dir
		[ "$(stat -c %u:%g /data/hard)" = "$(id -u):$(id -g)" ]
		chown "$(id -u):$(id -g)" /data/hard
		stat -f -c %l /data
		exec 3> /data/gone; rm /data/gone; echo x >&3; exec 3>&-
		printf 1 > /data/x; printf 2 > /data/y; mv /data/x /data/y; cat /data/y; echo
		ls /data
		for try in 'cat /data/none' 'mkdir /data/a' 'rmdir /data/a' 'cat /data/a' 'ls /data/hard/x' 'rm -d /data/a'; do $try 2>&1 | sed 's/.*: //'; done
		sync /data/hard
	`)
	want := `hello
from the sandbox
b/moved
from the sandbox
more
600
770
666
1000000000
0123
255
1
a
cut
hard
open
y
No such file or directory
File exists
Directory not empty
Is a directory
Not a directory
Directory not empty
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if got := p.read("data/a/b/moved"); got != "from the sandbox\nmore\n" {
		t.Errorf("in the pod: %q", got)
	}
	if st, err := os.Stat(p.at("data/hard")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("in the pod: %v, %v", st, err)
	}
}

// TestListingIsRecalled: once, and only where it told what a name is.
func TestListingIsRecalled(t *testing.T) {
	n := &node{}
	n.remember([]sftp.Entry{{Name: "known", Attr: &sftp.Attr{Mode: unix.S_IFREG | 0o644}}, {Name: "bare", Attr: &sftp.Attr{}}}, time.Now())
	for _, c := range []struct {
		name string
		want bool
	}{{"known", true}, {"known", false}, {"bare", false}, {"none", false}} {
		if got, _ := n.recall(c.name); (got != nil) != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestWalkIsListed: to look at many files of a directory takes far fewer requests than one for each.
func TestWalkIsListed(t *testing.T) {
	p := newPod(t)
	for i := range 500 {
		p.write("data/"+strconv.Itoa(i), "x")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out := p.sh([]place{liveAt("/data", p.at("data"))}, exe+" __child walk /data 500"); out != "<nil>\n" {
		t.Errorf("got %q", out)
	}
	const lstat, readdir = 7, 12
	if looks, lists := p.kinds[lstat].Load(), p.kinds[readdir].Load(); looks > 250 || lists == 0 {
		t.Errorf("%d LSTATs and %d READDIRs for 500 files", looks, lists)
	}
}

// TestLiveBothWays: what the pod's other containers write is seen within a second or so.
func TestLiveBothWays(t *testing.T) {
	p := newPod(t)
	p.write("data/f", "one")
	proc := p.run(Config{}, []place{liveAt("/data", p.at("data"))}, "/bin/sh", "-euc", `
		cat /data/f; echo; : > /data/ready
		until [ -e /data/go ]; do sleep 0.05; done
		until [ "$(cat /data/f)" = "other" ]; do sleep 0.05; done
		until [ ! -e /data/go ]; do sleep 0.05; done
		echo seen`)
	eventually(t, "the process's file in the pod", func() bool { _, err := os.Stat(p.at("data/ready")); return err == nil })
	p.write("data/f.new", "other")
	if err := os.Rename(p.at("data/f.new"), p.at("data/f")); err != nil {
		t.Fatal(err)
	}
	p.write("data/go", "")
	go func() { // ends with its one act
		time.Sleep(300 * time.Millisecond) // in the pod's own time
		_ = os.Remove(p.at("data/go"))
	}()
	if out, code := proc.wait(); out != "one\nseen\n" || code != 0 {
		t.Errorf("got %q, %d", out, code)
	}
}

// TestLiveBulk: 100 MiB through a volume and back, and a directory of 10,000 files.
func TestLiveBulk(t *testing.T) {
	p := newPod(t)
	p.mkdir("data")
	dir := p.mkdir("data/many")
	for i := range 10000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%05d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	size := 100 << 20
	if testing.Short() {
		size = 8 << 20
	}
	began := time.Now()
	out := p.sh([]place{liveAt("/data", p.at("data"))}, fmt.Sprintf(`
		head -c %d /dev/urandom > /data/big.tmp
		dd if=/data/big.tmp of=/data/big bs=1M status=none
		a=$(sha256sum < /data/big.tmp); b=$(sha256sum < /data/big)
		[ "$a" = "$b" ] && echo same
		ls /data/many | wc -l
		ls -l /data/many | wc -l
		%s __child list /data/many`, size, exe))
	t.Logf("written, copied and read twice in %v: %s", time.Since(began), out)
	if !strings.HasPrefix(out, "same\n10000\n10001\n10000 <nil>") {
		t.Errorf("got %q", out)
	}
	// Thrice listed, twice with attributes. The bench has the times.
	const lstat = 7
	if looks := p.kinds[lstat].Load(); looks > 5000 {
		t.Errorf("%d LSTATs for 10,000 files", looks)
	}
	if st, err := os.Stat(p.at("data/big")); err != nil || st.Size() != int64(size) {
		t.Errorf("in the pod: %v, %v", st, err)
	}
}
