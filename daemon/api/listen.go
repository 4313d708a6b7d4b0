package api

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"

	"google.golang.org/grpc"
)

// maxMessage bounds a message: an environment may hold large ConfigMaps.
const maxMessage = 16 << 20

// Listen opens the daemon's socket with mode 0600. A socket that an earlier daemon
// left is replaced: the caller holds the daemon's lock, so nobody serves on it.
// Processes of other users are refused and reported to logger.
func Listen(path string, logger *slog.Logger) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the old socket: %w", err)
	}
	lis, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the daemon's socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the socket to others: %w", err), lis.Close())
	}
	refused := func(err error) { logger.Warn("refused a connection", "error", err) }
	return peerListener{Listener: lis, refused: refused}, nil
}

// NewServer is a gRPC server with srv as its only service. The caller stops it.
func NewServer(srv DaemonServer) *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true))
	RegisterDaemonServer(s, srv)
	return s
}
