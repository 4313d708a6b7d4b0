package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// splice carries bytes between a stream whose opening is over and a connection in the
// pod until both ways have ended, or one was reset. It closes conn, and resets it where
// the stream is cancelled (which is how the laptop resets a connection).
//
// This goroutine reads conn; another one, which ends with the stream, reads the stream.
func (s *Server) splice(frames *frameStream, conn net.Conn) error {
	stop := context.AfterFunc(frames.stream.Context(), func() { resetConn(conn) })
	defer stop()
	defer func() { _ = conn.Close() }()

	r := receiver{conn: conn, frames: frames, fin: make(chan struct{}), done: make(chan struct{})}
	s.wg.Go(r.run)

	err := s.sendFrom(conn, frames)
	switch {
	case err == nil: // our FIN is sent
		select {
		case <-r.fin:
			return nil
		case <-r.done:
			err = r.err
		}
	case errors.Is(err, net.ErrClosed): // by the receiver, or by the stream's end
		<-r.done
		err = r.err
	}
	var broken *connError
	if errors.As(err, &broken) {
		resetConn(conn)
		failure := failureBody{code: codeOf(broken.err), text: broken.err.Error()}
		return frames.sendBody(kindReset, failure.append(nil))
	}
	return err
}

// connError is a failure of the connection in the pod, not of the stream.
type connError struct{ err error }

func (e *connError) Error() string { return e.err.Error() }
func (e *connError) Unwrap() error { return e.err }

// sendFrom sends what conn brings, and FIN at its end.
func (s *Server) sendFrom(conn net.Conn, frames *frameStream) error {
	size := smallFrame
	for {
		b := s.buffers.get(size)
		n, err := conn.Read((*b)[frameHeader:])
		if n > 0 {
			size = nextSize(size, frameHeader+n)
			*b = (*b)[:frameHeader+n]
			if err := frames.send(kindData, b); err != nil {
				return err
			}
		} else {
			s.buffers.put(b)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return frames.sendBody(kindFin, nil)
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			return &connError{err}
		}
	}
}

// nextSize is that of the buffer for the next read, after one that filled n bytes of size: an idle
// connection holds a small buffer, a busy one a large.
func nextSize(size, n int) int {
	switch {
	case n == size && size > smallFrame, n > largeFrame:
		return busyFrame
	case n == size, n > smallFrame:
		return largeFrame
	}
	return smallFrame
}

// receiver writes to conn what the stream brings.
type receiver struct {
	conn   net.Conn
	frames *frameStream
	fin    chan struct{} // closed when the laptop's half-close has been passed on
	done   chan struct{} // closed when run has returned
	err    error         // set before done is closed; nil: the laptop closed or reset
}

// run receives until the stream ends, and leaves conn closed.
func (r *receiver) run() {
	r.err = r.receive()
	if r.err != nil {
		resetConn(r.conn)
	}
	close(r.done)
}

func (r *receiver) receive() error {
	var views [][]byte
	finished := false
	for {
		var m inFrame
		if err := r.frames.recv(&m); err != nil {
			return badFrame(err)
		}
		switch {
		case m.kind == kindData && !finished:
			err := writeFrame(r.conn, &m, &views)
			m.free()
			if err != nil {
				return &connError{err}
			}
		case m.kind == kindFin && !finished:
			m.free()
			finished = true
			// A failure means that the connection is broken: its reader says how.
			_ = closeWrite(r.conn)
			close(r.fin)
		case m.kind == kindClose:
			m.free()
			_ = r.conn.Close()
			return nil
		case m.kind == kindReset:
			m.free()
			if owner, ok := r.conn.(interface{ TakeBack() bool }); !ok || !owner.TakeBack() {
				resetConn(r.conn)
			}
			return nil
		default:
			m.free()
			return badFrame(fmt.Errorf("%w: %s", errFrameUnexpected, m.kind))
		}
	}
}

// writeFrame writes a DATA frame's bytes from where they are.
func writeFrame(conn net.Conn, m *inFrame, views *[][]byte) error {
	v, err := m.body.Peek(m.bodyLen, (*views)[:0])
	if err != nil {
		return err
	}
	*views = v
	if len(v) == 1 {
		_, err = conn.Write(v[0])
		return err
	}
	buffers := net.Buffers(v)
	if w, ok := conn.(interface {
		WriteBuffers(b *net.Buffers) (int64, error)
	}); ok {
		_, err = w.WriteBuffers(&buffers)
		return err
	}
	_, err = buffers.WriteTo(conn)
	return err
}

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}

// resetConn closes conn so that its other end sees a reset.
func resetConn(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
