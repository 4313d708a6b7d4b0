package api

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ErrNotRunning says that no daemon serves on the socket.
var ErrNotRunning = errors.New("the daemon is not running")

// Client is a connection to the daemon. It is safe for concurrent use.
type Client struct {
	DaemonClient
	conn *grpc.ClientConn
}

// Dial connects to the daemon's socket; the caller closes the client. It does not
// reconnect: a daemon that died took its sessions' tunnels with it. Errors:
// ErrNotRunning, ErrForeignPeer.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err := checkPeer(raw); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), raw.Close())
	}
	once := make(chan net.Conn, 1)
	once <- raw
	conn, err := grpc.NewClient("passthrough:///teleswap-daemon",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, ErrNotRunning
			}
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the daemon: %w", err), raw.Close())
	}
	return &Client{DaemonClient: NewDaemonClient(conn), conn: conn}, nil
}

// Close ends the connection and every stream on it.
func (c *Client) Close() error { return c.conn.Close() }

// Broken tells whether err says that the daemon went away during a call, and not that
// it answered with an error.
func Broken(err error) bool {
	return status.Code(err) == codes.Unavailable
}

// Text is the message of an error of a call, without gRPC's own words.
func Text(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
