package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// Server answers the modes of the package. Name is what the mode "name"
// answers; Logger may be nil, which discards.
type Server struct {
	Name   string
	Logger *slog.Logger
}

// Serve accepts connections of lis until ctx ends, then closes lis and every
// connection, and returns when all its goroutines have ended: nil if ctx ended
// it, else the error of accepting.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = lis.Close() })
	defer stop()
	for {
		conn, err := lis.Accept()
		if err != nil {
			_ = lis.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %v: %w", lis.Addr(), err)
		}
		handlers.Go(func() { s.serveConn(ctx, conn) })
	}
}

func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	err := s.answer(conn)
	if err != nil && s.Logger != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.Logger.Debug("connection ended", "remote", conn.RemoteAddr(), "err", err)
	}
}

func (s *Server) answer(conn net.Conn) error {
	var b [headerSize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return err
	}
	h, err := decodeHeader(b[:])
	if err != nil {
		return err
	}
	switch h.mode {
	case modeEcho:
		// A plain loop, not io.Copy: splice costs more than it saves for one byte.
		return echo(conn)
	case modeSource:
		return source(conn, h)
	case modeSink:
		return sink(conn)
	case modeName:
		return answerName(conn, s.Name)
	}
	return errHeader
}

func echo(conn net.Conn) error {
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func source(conn net.Conn, h header) error {
	b := []byte{goByte}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if _, err := sendChunks(conn, h.duration); err != nil {
		return err
	}
	// The client closes first: it has read the last chunk by then, so no byte
	// of it can be lost to a close on the way.
	_, err := conn.Read(b)
	return err
}

func sink(conn net.Conn) error {
	if _, err := conn.Write([]byte{goByte}); err != nil {
		return err
	}
	got, err := receiveChunks(conn)
	if err != nil {
		return err
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(got))
	if _, err := conn.Write(b[:]); err != nil {
		return err
	}
	_, err = conn.Read(b[:])
	return err
}

func answerName(conn net.Conn, name string) error {
	if len(name) > 1<<16-1 {
		name = name[:1<<16-1]
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(len(name)))
	_, err := conn.Write(append(b, name...))
	return err
}
