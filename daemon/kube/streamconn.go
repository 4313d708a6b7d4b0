package kube

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// chunkSize is how much is read from a stream at once.
const chunkSize = 64 << 10

// lastWordsTimeout is how long the end of the data waits for the error stream to say
// why.
const lastWordsTimeout = 250 * time.Millisecond

// streamConn makes a net.Conn of a data stream that knows no deadlines, and of an
// error stream that says why the data ended.
//
// Two goroutines read the streams. They end when the streams do, which Close brings
// about and waits for.
type streamConn struct {
	data   io.ReadWriter
	addr   net.Addr
	closer func() error // closes both streams

	chunks  chan []byte // from readLoop; closed at the end of the data
	spent   chan []byte // buffers back to readLoop
	dataErr error       // why the data ended; set before chunks is closed
	failure chan error  // from errorLoop: one value
	closed  chan struct{}
	once    sync.Once
	loops   sync.WaitGroup

	readMu  sync.Mutex // one Read at a time
	pending []byte     // rest of the current chunk
	chunk   []byte     // the whole of it
	ended   error      // what Read returns from now on

	readDeadline, writeDeadline deadline
}

func newStreamConn(data io.ReadWriter, failure io.Reader, addr net.Addr, closer func() error) *streamConn {
	s := &streamConn{
		data:    data,
		addr:    addr,
		closer:  closer,
		chunks:  make(chan []byte),
		spent:   make(chan []byte, 2),
		failure: make(chan error, 1),
		closed:  make(chan struct{}),
	}
	s.readDeadline.init()
	s.writeDeadline.init()
	s.spent <- make([]byte, chunkSize)
	s.spent <- make([]byte, chunkSize)
	s.loops.Go(s.readLoop)
	s.loops.Go(func() { s.failure <- readFailure(failure) })
	return s
}

// readLoop ends when the data does or the connection is closed.
func (s *streamConn) readLoop() {
	defer close(s.chunks)
	for {
		var buffer []byte
		select {
		case buffer = <-s.spent:
		case <-s.closed:
			return
		}
		n, err := s.data.Read(buffer[:cap(buffer)])
		if n > 0 {
			select {
			case s.chunks <- buffer[:n]:
			case <-s.closed:
				return
			}
		} else if err == nil {
			s.spent <- buffer
		}
		if err != nil {
			s.dataErr = err
			return
		}
	}
}

// Read implements net.Conn.
func (s *streamConn) Read(p []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if len(s.pending) == 0 {
		if err := s.nextChunk(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.pending)
	if s.pending = s.pending[n:]; len(s.pending) == 0 {
		s.spent <- s.chunk
	}
	return n, nil
}

func (s *streamConn) nextChunk() error {
	if s.ended != nil {
		return s.ended
	}
	expired := s.readDeadline.expired()
	select {
	case <-s.closed:
		return net.ErrClosed
	case <-expired:
		return os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-s.closed:
		return net.ErrClosed
	case <-expired:
		return os.ErrDeadlineExceeded
	case chunk, open := <-s.chunks:
		if !open {
			s.ended = s.endOfData()
			return s.ended
		}
		s.chunk, s.pending = chunk, chunk
		return nil
	}
}

// endOfData prefers what the error stream says, which comes at about the same time.
func (s *streamConn) endOfData() error {
	timer := time.NewTimer(lastWordsTimeout)
	defer timer.Stop()
	select {
	case err := <-s.failure:
		if err != nil {
			return err
		}
	case <-s.closed:
		return net.ErrClosed
	case <-timer.C:
	}
	if s.dataErr == nil || errors.Is(s.dataErr, io.EOF) {
		return io.EOF
	}
	return s.dataErr
}

// Write implements net.Conn.
func (s *streamConn) Write(p []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case <-s.writeDeadline.expired():
		return 0, os.ErrDeadlineExceeded
	default:
	}
	return s.data.Write(p)
}

// Close implements net.Conn: it closes the connection below, wakes those who wait, and
// waits for the goroutines.
func (s *streamConn) Close() error {
	err := net.ErrClosed
	s.once.Do(func() {
		close(s.closed)
		err = s.closer()
		s.loops.Wait()
	})
	return err
}

// LocalAddr implements net.Conn.
func (s *streamConn) LocalAddr() net.Addr { return s.addr }

// RemoteAddr implements net.Conn.
func (s *streamConn) RemoteAddr() net.Addr { return s.addr }

// SetDeadline implements net.Conn.
func (s *streamConn) SetDeadline(t time.Time) error {
	s.readDeadline.set(t)
	s.writeDeadline.set(t)
	return nil
}

// SetReadDeadline implements net.Conn. It wakes a Read that waits.
func (s *streamConn) SetReadDeadline(t time.Time) error {
	s.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn. It does not wake a Write that waits.
func (s *streamConn) SetWriteDeadline(t time.Time) error {
	s.writeDeadline.set(t)
	return nil
}

// deadline is a time after which a channel is closed, and which can be moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func (d *deadline) init() { d.done = make(chan struct{}) }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // its function runs or has run: let it finish with the old channel
	}
	d.timer = nil
	select {
	case <-d.done:
		d.done = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	done := d.done
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(done) })
		return
	}
	close(done)
}

func (d *deadline) expired() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}
