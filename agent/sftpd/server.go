// Package sftpd serves the files of this machine by SFTP, version 3
// (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions (its PROTOCOL file, section 4), on any
// byte stream, with the rights of its process. It knows neither SSH nor who is on the other end.
//
// What a file system in user space needs and other servers lack: fsync, O_APPEND, handles
// that outlive their name, errno's names in the status texts, and all of stat(2). Two extensions of
// its own, each of version 1: "ordered-writes@teleswap.dev" says that the WRITEs of one handle
// are done in the order of their arrival, so that a client may send many without waiting and who
// reads the file meanwhile sees no holes; and with "open-stat@teleswap.dev" an OPEN whose attributes
// hold an extended one of that name is answered by a HANDLE behind which the file's ATTRS stand.
package sftpd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// workers is how many requests of one stream are worked on at a time.
const workers = 16

// Config is what Serve needs.
type Config struct {
	// Refuse lists folders whose files are not opened, nor listed: EACCES.
	Refuse []string
}

// Serve serves one client on conn until its end, and returns nil where that was in order. Files that
// the client left open are closed. The caller closes conn, which ends Serve.
func Serve(conn io.ReadWriter, cfg Config) error {
	s := &server{conn: conn, refuse: resolved(cfg.Refuse), slots: make(chan struct{}, workers), handles: make(map[string]*handle)}
	err := s.recvLoop(bufio.NewReaderSize(conn, 64<<10))
	s.wg.Wait()
	for _, h := range s.handles {
		_ = h.file.Close()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

type server struct {
	refuse []string
	slots  chan struct{}  // one for each request under way
	wg     sync.WaitGroup // requests under way

	sendMu sync.Mutex
	conn   io.ReadWriter

	mu      sync.Mutex
	handles map[string]*handle
	last    uint64 // the last handle's number
}

// handle is an open file or folder. Its users are counted, so that CLOSE waits for them.
type handle struct {
	file  *os.File
	dir   bool
	users sync.WaitGroup
	// wrote is closed when the last write that has arrived is done; nil: there was none. It is recvLoop's.
	wrote chan struct{}

	dirMu sync.Mutex // one READDIR at a time
	ahead []os.DirEntry
}

// recvLoop takes requests until the stream ends. What only looks, reads or writes runs beside
// others; what changes names or attributes runs alone, so that pipelined requests have the
// effect of their order.
func (s *server) recvLoop(r *bufio.Reader) error {
	for {
		packet, err := readPacket(r)
		if err != nil {
			return err
		}
		q := sftpwire.Decoder{Rest: packet}
		kind := q.Byte()
		id := q.Uint32()
		switch {
		case q.Err != nil:
			return q.Err
		case kind == sftpwire.TypeInit:
			if err := s.send(versionAnswer()); err != nil {
				return err
			}
			continue
		}
		work := s.work(kind, id, q)
		if !parallel(kind, q) {
			s.wg.Wait()
			if err := s.send(work()); err != nil {
				return err
			}
			continue
		}
		s.slots <- struct{}{}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			_ = s.send(work()) // a broken stream shows in this loop
		})
	}
}

func parallel(kind byte, q sftpwire.Decoder) bool {
	switch kind {
	case sftpwire.TypeOpen, sftpwire.TypeClose, sftpwire.TypeRead, sftpwire.TypeWrite, sftpwire.TypeFstat,
		sftpwire.TypeLstat, sftpwire.TypeStat, sftpwire.TypeReadlink, sftpwire.TypeRealpath,
		sftpwire.TypeOpendir, sftpwire.TypeReaddir:
		return true
	case sftpwire.TypeExtended:
		switch q.Text() {
		case sftpwire.ExtFsync, sftpwire.ExtStatvfs, sftpwire.ExtFstatvfs:
			return true
		}
	}
	return false
}

func readPacket(r *bufio.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err // io.EOF between packets
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 5 || size > maxPacket {
		return nil, fmt.Errorf("%w: of %d bytes", sftpwire.ErrMalformed, size)
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return packet, nil
}

func (s *server) send(packet []byte) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	_, err := s.conn.Write(finish(packet))
	return err
}

func versionAnswer() []byte {
	b := answer(sftpwire.TypeVersion, 3)
	for _, e := range [...][2]string{
		{sftpwire.ExtPosixRename, "1"},
		{sftpwire.ExtStatvfs, "2"},
		{sftpwire.ExtFstatvfs, "2"},
		{sftpwire.ExtHardlink, "1"},
		{sftpwire.ExtFsync, "1"},
		{sftpwire.ExtLsetstat, "1"},
		{sftpwire.ExtLimits, "1"},
		{sftpwire.ExtOrderedWrites, "1"},
		{sftpwire.ExtOpenStat, "1"},
	} {
		b = sftpwire.AppendString(sftpwire.AppendString(b, e[0]), e[1])
	}
	return b
}

// work parses a request and returns what is to be done for its answer. A handle is taken
// here, in the order of the requests, so that a CLOSE behind them waits.
func (s *server) work(kind byte, id uint32, q sftpwire.Decoder) func() []byte {
	status := func(f func() error) func() []byte {
		return func() []byte { return statusAnswer(id, f()) }
	}
	switch kind {
	case sftpwire.TypeOpen:
		name, flags, a := q.Text(), q.Uint32(), q.Attrs()
		return checked(&q, id, func() []byte { return s.open(id, name, flags, a) })
	case sftpwire.TypeOpendir:
		name := q.Text()
		return checked(&q, id, func() []byte { return s.opendir(id, name) })
	case sftpwire.TypeClose:
		h, err := s.forget(q.Text())
		return status(func() error {
			if err != nil {
				return err
			}
			h.users.Wait()
			return h.file.Close()
		})
	case sftpwire.TypeRead:
		return s.withHandle(id, &q, func(h *handle, q *sftpwire.Decoder) func() []byte {
			offset, size := q.Uint64(), q.Uint32()
			return func() []byte { return read(id, h, offset, size) }
		})
	case sftpwire.TypeWrite:
		return s.withHandle(id, &q, func(h *handle, q *sftpwire.Decoder) func() []byte {
			offset, p := q.Uint64(), q.Bytes()
			if q.Err != nil {
				return nil
			}
			before, done := h.wrote, make(chan struct{})
			h.wrote = done
			return status(func() error {
				defer close(done)
				await(before)
				return writeAt(h.file, p, int64(offset))
			})
		})
	case sftpwire.TypeFstat:
		return s.withHandle(id, &q, func(h *handle, _ *sftpwire.Decoder) func() []byte {
			return func() []byte {
				return statAnswer(id, func(st *unix.Stat_t) error { return onFD(h.file, func(fd int) error { return unix.Fstat(fd, st) }) })
			}
		})
	case sftpwire.TypeFsetstat:
		return s.withHandle(id, &q, func(h *handle, q *sftpwire.Decoder) func() []byte {
			a := q.Attrs()
			return status(func() error { return fsetstat(h.file, a) })
		})
	case sftpwire.TypeReaddir:
		return s.withHandle(id, &q, func(h *handle, _ *sftpwire.Decoder) func() []byte {
			return func() []byte { return readdir(id, h) }
		})
	case sftpwire.TypeExtended:
		return s.extended(id, &q)
	}
	return pathWork(kind, id, &q)
}

// await waits for the write that closes done, if there is one. That one has a worker already, so this
// ends.
func await(done chan struct{}) {
	if done != nil {
		<-done
	}
}

// checked is f, or the answer to a request that is not well-formed.
func checked(q *sftpwire.Decoder, id uint32, f func() []byte) func() []byte {
	if q.Err != nil {
		err := q.Err
		return func() []byte { return statusAnswer(id, err) }
	}
	return f
}

// withHandle takes the handle that a request begins with, and lets go of it when the work that
// parse returns is done.
func (s *server) withHandle(id uint32, q *sftpwire.Decoder, parse func(*handle, *sftpwire.Decoder) func() []byte) func() []byte {
	name := q.Text()
	s.mu.Lock()
	h := s.handles[name]
	if h != nil {
		h.users.Add(1)
	}
	s.mu.Unlock()
	if h == nil {
		return checked(q, id, func() []byte { return statusAnswer(id, syscall.EBADF) })
	}
	work := parse(h, q)
	work = checked(q, id, work)
	return func() []byte {
		defer h.users.Done()
		return work()
	}
}

// forget takes a handle out of the table; nobody takes it from now on.
func (s *server) forget(name string) (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[name]
	if h == nil {
		return nil, syscall.EBADF
	}
	delete(s.handles, name)
	return h, nil
}

// remember gives an open file its handle, which it answers with.
func (s *server) remember(id uint32, f *os.File, dir bool) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	name := strconv.FormatUint(s.last, 36)
	s.handles[name] = &handle{file: f, dir: dir}
	return sftpwire.AppendString(answer(sftpwire.TypeHandle, id), name)
}
