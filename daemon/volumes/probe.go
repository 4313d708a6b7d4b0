package volumes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
)

// Found is what is at a path in the pod: its type and mode, or why that is not to be known.
type Found struct {
	Mode os.FileMode
	Err  error
}

// Probe looks at paths of the pod, links followed. It fails when the pod's files cannot be reached at all. It opens one
// stream and closes it.
func Probe(ctx context.Context, files func(context.Context) (net.Conn, error), paths []string) ([]Found, error) {
	conn, err := files(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	client, err := sftp.New(conn)
	if err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	defer func() {
		_ = client.Close()
		<-client.Ended()
	}()
	found := make([]Found, len(paths))
	calls := make([]*sftp.Call, len(paths))
	for i, p := range paths {
		calls[i] = client.Stat(p)
	}
	for i, p := range paths {
		st, err := calls[i].Attr()
		if isLost(err) {
			return nil, errors.Join(fmt.Errorf("look at the pod's %s: %w", p, err), ctx.Err())
		}
		if err != nil {
			found[i].Err = errnoOf(err)
			continue
		}
		found[i].Mode = fileMode(st.Mode)
	}
	return found, nil
}

// fileMode makes an os.FileMode of st_mode.
func fileMode(st uint32) os.FileMode {
	return modeOf(st) | map[uint32]os.FileMode{
		syscall.S_IFDIR: os.ModeDir, syscall.S_IFLNK: os.ModeSymlink, syscall.S_IFSOCK: os.ModeSocket, syscall.S_IFIFO: os.ModeNamedPipe,
		syscall.S_IFBLK: os.ModeDevice, syscall.S_IFCHR: os.ModeDevice | os.ModeCharDevice,
	}[st&syscall.S_IFMT]
}
