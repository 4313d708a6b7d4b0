package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/podlog"
)

// podLogs sends a copy of the process's output to the daemon, for the log of the agent's pod. What cannot be sent in time is
// dropped: the process never waits for it. Its methods may be called on nil, where nothing is sent.
type podLogs struct {
	queue  *podlog.Queue
	cancel context.CancelFunc
	ended  chan struct{}
}

// startPodLogs begins; end ends it.
func startPodLogs(ctx context.Context, c *api.Client, session string, ui *progress) *podLogs {
	ctx, cancel := context.WithCancel(ctx)
	l := &podLogs{queue: podlog.New(podlog.Limit), cancel: cancel, ended: make(chan struct{})}
	go func() { // ends with the queue, with the session, or with ctx
		defer close(l.ended)
		err := l.sendLoop(ctx, c, session)
		l.queue.Close()
		if err != nil && ctx.Err() == nil && !api.Broken(err) {
			ui.line("! the pod's log lacks what the process writes from now on: %s", api.Text(err))
		}
	}()
	return l
}

// tee is what gets the output.
func (l *podLogs) tee() func(stderr bool, p []byte) {
	if l == nil {
		return nil
	}
	return l.queue.Write
}

// close says that the process has ended: what waits is still sent.
func (l *podLogs) close() {
	if l != nil {
		l.queue.Close()
	}
}

// end is called when the session is over, and with it the way to the pod.
func (l *podLogs) end() {
	if l != nil {
		l.cancel()
		<-l.ended
	}
}

func (l *podLogs) sendLoop(ctx context.Context, c *api.Client, session string) error {
	stream, err := c.Logs(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&api.LogChunk{Session: session}); err != nil {
		return reason(stream, err)
	}
	for {
		chunk, err := l.queue.Next(ctx)
		if errors.Is(err, io.EOF) {
			_, err := stream.CloseAndRecv()
			return err
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&api.LogChunk{Stderr: chunk.Stderr, Data: chunk.Data}); err != nil {
			return reason(stream, err)
		}
	}
}

// reason is why a stream takes nothing any more: gRPC tells the receiver.
func reason(stream grpc.ClientStreamingClient[api.LogChunk, api.LogsReply], err error) error {
	if errors.Is(err, io.EOF) {
		_, err = stream.CloseAndRecv()
	}
	return err
}
