package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// fileLink is a link to a pod with files.
type fileLink struct {
	Link
	trees []*tunnel.Tree
	away  error
}

func (l fileLink) DialFiles(context.Context) (net.Conn, error) {
	if l.away != nil {
		return nil, l.away
	}
	ours, theirs := net.Pipe()
	server, err := sftp.NewServer(theirs)
	if err != nil {
		return nil, err
	}
	go func() { // ends with the connection
		_ = server.Serve()
		_ = theirs.Close()
	}()
	return ours, nil
}

func (l fileLink) WatchTrees(ctx context.Context, _ []string, got func(*tunnel.Tree)) error {
	for _, t := range l.trees {
		got(t)
	}
	<-ctx.Done()
	return ctx.Err()
}

// mountBox is a sandbox that has made volumes.
type mountBox struct {
	Box
	files    []*os.File
	problems []string
}

func (b mountBox) TakeMounts() BoxMounts { return BoxMounts{Files: b.files, Problems: b.problems} }

// messages collects what a session says.
func messages(s *Session) func() string {
	events, stop := s.Watch(true)
	return func() string {
		stop()
		var all []string
		for {
			select {
			case e := <-events:
				if m, ok := e.(Message); ok {
					all = append(all, m.Text)
				}
			default:
				return strings.Join(all, "\n")
			}
		}
	}
}

func TestMountsAreFoundOrSaid(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "sock")
	lis, err := net.Listen("unix", socket)
	if err := errors.Join(err, os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	pod := kube.AgentPod{Mounts: []kube.Mount{
		{Path: dir, Volume: "data", Live: true},
		{Path: file, Volume: "conf", ReadOnly: true},
		{Path: socket, Volume: "docker", Live: true},
		{Path: filepath.Join(dir, "none"), Volume: "gone"},
	}}
	for _, c := range []struct {
		name string
		link fileLink
		want []sandbox.Mount
		said []string
	}{
		{"found", fileLink{}, []sandbox.Mount{{Path: dir, Live: true}, {Path: file, ReadOnly: true, File: true}}, []string{
			socket + " (volume docker): it is a socket", "(volume gone): the agent may not look at it: no such file or directory",
		}},
		{"no files", fileLink{away: errors.New("no SFTP there")}, nil, []string{"the pod's 4 volumes: no SFTP there"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession("abc", Config{Now: time.Now}, Request{})
			said := messages(s)
			sw := &swap{link: c.link, pod: pod}
			if got := s.findMounts(t.Context(), sw); !reflect.DeepEqual(got, c.want) || len(sw.mounts) != len(c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			text := said()
			for _, want := range c.said {
				if !strings.Contains(text, want) {
					t.Errorf("%q was not said, but\n%s", want, text)
				}
			}
		})
	}
}

func TestVolumesAreFilledBeforeTheStart(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession("abc", Config{Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, Request{})
	said := messages(s)
	sw := &swap{
		link: fileLink{trees: []*tunnel.Tree{{Root: "/etc/app", Entries: []tunnel.TreeEntry{
			{Mode: syscall.S_IFDIR | 0o755}, {Path: "key", Mode: syscall.S_IFREG | 0o644, Content: []byte("value")},
		}}}},
		mounts: []kube.Mount{{Path: "/etc/app"}, {Path: "/data", Volume: "pvc", Live: true}},
		box:    mountBox{files: []*os.File{f, nil}, problems: []string{"", "this machine has no /dev/fuse"}},
	}
	if err := s.startVolumes(t.Context(), sw); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "key")); string(b) != "value" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := sw.volumes.Close(); err != nil {
		t.Error(err)
	}
	if text := said(); !strings.Contains(text, "/data (volume pvc): this machine has no /dev/fuse") {
		t.Errorf("said %q", text)
	}
	sw.box = mountBox{}
	if err := s.startVolumes(t.Context(), sw); err == nil || !strings.Contains(err.Error(), "0 of 2 volumes") {
		t.Errorf("a sandbox of another version: %v", err)
	}
}
