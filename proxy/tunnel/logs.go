package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

const (
	// maxLogChunk is how much of a Write travels in one message.
	maxLogChunk = 32 << 10
	// logFlushTime is how long Close waits for the agent to write what is under way.
	logFlushTime = 5 * time.Second
)

// LogStream carries the local process's output to where the pod's logs come from. It is safe
// for concurrent use; the bytes of one Write stay together up to 32 KiB.
type LogStream struct {
	client *Client
	stream grpc.ClientStream
	cancel context.CancelFunc

	closed  chan struct{}
	closing sync.Once
	ended   error // Close's result

	sendMu sync.Mutex // gRPC takes one sender at a time
}

// Logs opens the way for the local process's output: it appears on the agent's standard
// output and error byte for byte. ctx bounds only the opening. The caller closes the stream.
func (c *Client) Logs(ctx context.Context) (*LogStream, error) {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	stream, err := c.conn.NewStream(streamCtx, rawStream(methodLogs), methodPath(methodLogs))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open the pod's logs: %w", rpcError(err))
	}
	return &LogStream{client: c, stream: stream, cancel: cancel, closed: make(chan struct{})}, nil
}

// Write queues bytes for the agent's standard output, or error. It drops nothing: it waits while
// the way is full. After an error, the stream's end, the same is returned for every call.
func (l *LogStream) Write(stderr bool, p []byte) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	for len(p) > 0 {
		if isClosed(l.closed) {
			return fmt.Errorf("write to the pod's logs: %w", net.ErrClosed)
		}
		n := min(len(p), maxLogChunk)
		if err := l.stream.SendMsg(&tunnelpb.LogChunk{Stderr: stderr, Data: p[:n]}); err != nil {
			if errors.Is(err, io.EOF) { // gRPC tells the reason to the receiver
				err = l.stream.RecvMsg(&tunnelpb.LogsDone{})
			}
			return l.fail("write to the pod's logs", err)
		}
		p = p[n:]
	}
	return nil
}

// Close waits, for five seconds at most, until the agent has written all, and ends the stream.
// A Write that waits returns. It may be called twice.
func (l *LogStream) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		timer := time.AfterFunc(logFlushTime, l.cancel)
		defer timer.Stop()
		defer l.cancel()
		l.sendMu.Lock()
		defer l.sendMu.Unlock()
		err := l.stream.CloseSend()
		if err == nil {
			err = l.stream.RecvMsg(&tunnelpb.LogsDone{})
		}
		if err != nil {
			l.ended = l.fail("end the pod's logs", err)
		}
	})
	return l.ended
}

func (l *LogStream) fail(what string, err error) error {
	if end := l.client.Err(); end != nil {
		err = end
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: %w", what, rpcError(err))
}

func (s *Server) serveLogs(stream grpc.ServerStream) error {
	if s.cfg.Log == nil {
		return status.Error(codes.Unimplemented, "this agent writes no logs")
	}
	if s.cfg.LogEnd != nil {
		defer s.cfg.LogEnd()
	}
	for {
		var m tunnelpb.LogChunk
		err := stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return stream.SendMsg(&tunnelpb.LogsDone{})
		}
		if err != nil {
			return err
		}
		if err := s.cfg.Log(m.GetStderr(), m.GetData()); err != nil {
			return status.Error(codes.DataLoss, err.Error())
		}
	}
}
