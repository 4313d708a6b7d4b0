package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
	// fewTries is for calls that a person waits for: enough to get over a hiccup.
	fewTries = 4
)

// call does one call with its own timeout, and repeats it a few times when the API
// server has a hiccup. A server that is not there is said at once.
func (c *Cluster) call(ctx context.Context, doing string, do func(context.Context) error) error {
	var err error
	for try := range fewTries {
		if err = c.once(ctx, do); err == nil || !isHiccup(err) || try == fewTries-1 || pause(ctx, try) != nil {
			break
		}
		c.log.Debug("repeating a call", "doing", doing, "err", err)
	}
	return c.explain(doing, err)
}

// insist repeats a call until it succeeds, fails for good, or ctx ends: for undo,
// which must outlast a network that is away for a while.
func (c *Cluster) insist(ctx context.Context, doing string, do func(context.Context) error) error {
	for try := 0; ; try++ {
		err := c.once(ctx, do)
		if err == nil || !isPassing(err) {
			return c.explain(doing, err)
		}
		c.log.Debug("repeating a call", "doing", doing, "try", try, "err", err)
		if stop := pause(ctx, try); stop != nil {
			return fmt.Errorf("%w (gave up: %w)", c.explain(doing, err), stop)
		}
	}
}

// change is call for what changes something: the end of ctx does not cut it off. The API server may make a change that was cut
// off all the same, and later than what takes it back: nobody would take it back then.
func (c *Cluster) change(ctx context.Context, doing string, do func(context.Context) error) error {
	return c.call(ctx, doing, c.whole(do))
}

// insistChange is insist for what changes something, as change is call.
func (c *Cluster) insistChange(ctx context.Context, doing string, do func(context.Context) error) error {
	return c.insist(ctx, doing, c.whole(do))
}

// whole lets a change have its answer, once it has begun. It has the time that any call has.
func (c *Cluster) whole(do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		return do(ctx)
	}
}

func (c *Cluster) once(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return do(ctx)
}

// pause waits before the next try: twice as long each time, up to a cap, half of it by
// chance so that many laptops do not come back in step.
func pause(ctx context.Context, try int) error {
	wait := min(firstPause<<min(try, 10), lastPause)
	wait = wait/2 + rand.N(wait/2+1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isHiccup reports errors that the next try may well not meet: the server is there,
// but was busy or lost a connection.
func isHiccup(err error) bool {
	return apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || isBadGateway(err) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isPassing reports errors that may end by themselves: a hiccup, or a network that is
// away.
func isPassing(err error) bool {
	if isHiccup(err) {
		return true
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return false
	}
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// isBadGateway reports an answer of a proxy before the API server.
func isBadGateway(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && (status.Status().Code == 502 || status.Status().Code == 504)
}
