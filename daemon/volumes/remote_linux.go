package volumes

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
)

const (
	// operationTime bounds an operation that the pod has got but does not answer. A megabyte over a slow line is far below.
	operationTime = time.Minute
	// interruptGrace is how long an operation goes on when the process that waits for it was sent a signal. Most are
	// answered within it, so that a handled signal costs no program an EINTR that it would not see on a local disk; a process
	// that is killed is held no longer.
	interruptGrace = time.Second
	// handshakeTime bounds the opening of SFTP.
	handshakeTime = 10 * time.Second
)

// remote is the pod's file system: one SFTP connection, dialled again when it has broken. It is safe for concurrent use.
type remote struct {
	open     func(ctx context.Context) (net.Conn, error)
	life     context.Context //nolint:containedctx // the life of the object, which ends what is under way
	end      context.CancelFunc
	redial   time.Duration
	patience time.Duration
	log      *slog.Logger
	loops    sync.WaitGroup

	mu      sync.Mutex
	client  *connection   // nil: none
	dialled chan struct{} // not nil while one is dialled; closed when that has ended
	err     error         // of the last dial

	writes pending
	ahead  atomic.Int64 // bytes of blocks that were read ahead
	warn   func(format string, args ...any)
}

func newRemote(ctx context.Context, cfg Config) *remote {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	return &remote{open: cfg.Files, life: life, end: end, redial: cfg.Redial, patience: cfg.Patience, log: cfg.Logger, warn: cfg.Warn}
}

// current returns the connection, dialling it if there is none. It waits until ctx ends.
func (r *remote) current(ctx context.Context) (*connection, error) {
	for {
		r.mu.Lock()
		if r.client != nil {
			defer r.mu.Unlock()
			return r.client, nil
		}
		if r.life.Err() != nil {
			r.mu.Unlock()
			return nil, syscall.EIO
		}
		if r.dialled == nil {
			r.dialled = make(chan struct{})
			r.loops.Go(r.dial)
		}
		dialled := r.dialled
		r.mu.Unlock()
		select {
		case <-dialled:
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			return nil, errors.Join(syscall.EIO, ctx.Err(), r.err)
		}
	}
}

// dial makes one try, and pauses after one that failed.
func (r *remote) dial() {
	client, err := r.connect()
	if err != nil && r.life.Err() == nil {
		r.log.Info("reaching the pod's files failed", "error", err)
		pause := time.NewTimer(r.redial)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-r.life.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.client, r.err = client, err
	close(r.dialled)
	r.dialled = nil
}

func (r *remote) connect() (*connection, error) {
	ctx, cancel := context.WithTimeout(r.life, handshakeTime)
	defer cancel()
	conn, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	client, err := sftp.New(conn)
	if !stop() && err == nil {
		err = client.Close()
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	c := &connection{client}
	r.loops.Go(func() { r.attend(c) })
	return c, nil
}

// attend ends with the connection, which it ends when the object does.
func (r *remote) attend(c *connection) {
	stop := context.AfterFunc(r.life, c.cut)
	<-c.Ended()
	stop()
	c.cut()
	r.forget(c)
}

// connection is one SFTP connection.
type connection struct {
	*sftp.Client
}

// cut ends it, and what is under way on it.
func (c *connection) cut() { _ = c.Close() }

// lose ends a connection on which something was cut off.
func (r *remote) lose(c *connection, err error) {
	r.log.Info("the way to the pod's files broke", "error", err)
	c.cut()
	r.forget(c)
}

// forget gives a broken connection up.
func (r *remote) forget(client *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client == client {
		r.client = nil
	}
}

// drain waits for what is on its way to the pod, and says so if that takes too long.
func (r *remote) drain(patience time.Duration) {
	ctx, cancel := context.WithTimeout(r.life, patience)
	defer cancel()
	if r.settleAll(ctx) != 0 {
		r.warn("not all that the process wrote to the pod's volumes has arrived there")
	}
}

// close ends the connection and fails what waits.
func (r *remote) close() {
	r.mu.Lock()
	r.end()
	r.mu.Unlock()
	r.loops.Wait()
}

// attempt is what an operation is told. Again says that an earlier try was cut off, and may have been done.
type attempt struct {
	client *connection
	again  bool
}

// made is the error of making something: that it exists is none if an earlier try may have made it.
func (a attempt) made(err error) error {
	if a.again && errnoOf(err) == syscall.EEXIST {
		return nil
	}
	return err
}

// do runs an operation on the connection. One that was cut off is run again on the next connection, so op must be
// repeatable. It returns op's result, or an errno: EIO when the pod cannot be reached for so long as patience is or does
// not answer for operationTime, EINTR when the process that asked has been signalled (ctx) and no answer comes.
//
// When do returns an error op may still be running: what it writes to must be its own.
func do[T any](ctx context.Context, r *remote, op func(attempt) (T, error)) (T, syscall.Errno) {
	var none T
	waiting, cancel := context.WithTimeout(r.life, r.patience)
	defer cancel()
	signalled, settle := afterGrace(ctx)
	defer settle()
	stop := context.AfterFunc(signalled, cancel)
	defer stop()
	for a := (attempt{}); ; a.again = true {
		var err error
		if a.client, err = r.current(waiting); err != nil {
			if signalled.Err() != nil {
				return none, syscall.EINTR
			}
			return none, syscall.EIO
		}
		got, err := answer(signalled, r, a, op)
		if err == nil || !isLost(err) {
			return got, errnoOf(err)
		}
		r.lose(a.client, err)
	}
}

// loop runs f in a goroutine that close waits for, unless it is over.
func (r *remote) loop(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.Err() != nil {
		return false
	}
	r.loops.Go(f)
	return true
}

// answer runs op once and waits for it.
func answer[T any](signalled context.Context, r *remote, a attempt, op func(attempt) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	done := make(chan result, 1)
	if !r.loop(func() { // ends with its answer, or with the connection
		value, err := op(a)
		done <- result{value, err}
	}) {
		return none, syscall.EIO
	}
	late := time.NewTimer(operationTime)
	defer late.Stop()
	select {
	case res := <-done:
		return res.value, res.err
	case <-signalled.Done():
		return none, syscall.EINTR
	case <-r.life.Done():
		return none, syscall.EIO
	case <-late.C:
		r.log.Warn("the pod does not answer an operation on its files")
		return none, syscall.EIO
	}
}

// afterGrace returns a context that ends some time after ctx has. The func must be called in the end.
func afterGrace(ctx context.Context) (context.Context, func()) {
	graced, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(interruptGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-graced.Done():
		}
		end()
	})
	return graced, func() {
		stop()
		end()
	}
}
