package volumes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/pkg/sftp"
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
	client, err := sftp.NewClientPipe(conn, conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open SFTP: %w", err), ctx.Err())
	}
	found := make([]Found, len(paths))
	for i, p := range paths {
		st, err := client.Stat(p)
		if isLost(err) {
			return nil, errors.Join(fmt.Errorf("look at the pod's %s: %w", p, err), ctx.Err())
		}
		if err != nil {
			found[i].Err = errnoOf(err)
			continue
		}
		found[i].Mode = st.Mode()
	}
	return found, client.Close()
}
