package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/daemon/api"
)

// callError is what the daemon answered, as an error of this program.
func callError(err error) error {
	if api.Broken(err) {
		return errors.New("the daemon went away: " + api.Text(err))
	}
	if status.Code(err) == codes.InvalidArgument {
		return usage("%s", api.Text(err))
	}
	return errors.New(api.Text(err))
}

// events is the daemon's end of a stream of events.
type events interface{ Recv() (*api.Event, error) }

// watch prints the events of sessions that end, until the stream does. It returns how
// many ended well.
func (a *app) watch(ctx context.Context, stream events) (restored int, err error) {
	ui := newProgress(a.err)
	var failures []error
	for {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			ui.stop()
			return restored, errors.Join(failures...)
		case err != nil && ctx.Err() != nil:
			ui.stop()
			return restored, context.Cause(ctx)
		case err != nil:
			ui.stop()
			return restored, callError(err)
		}
		done := e.GetDone()
		if done == nil {
			ui.event(e)
			continue
		}
		switch {
		case done.GetRestored() && done.GetUnchanged():
			ui.line("ended: %s", done.GetTarget())
		case done.GetRestored():
			restored++
			ui.line("restored: %s is as it was", done.GetTarget())
		default:
			failures = append(failures, fmt.Errorf("%s is not restored: %s", done.GetTarget(), done.GetError()))
		}
	}
}
