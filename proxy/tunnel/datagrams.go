package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// spliceDatagrams is splice for a UDP flow: it carries datagrams between a stream whose
// opening is over and a connected socket, or what looks like one, until either side ends
// the flow. It closes conn.
func (s *Server) spliceDatagrams(frames *frameStream, conn net.Conn) error {
	stop := context.AfterFunc(frames.stream.Context(), func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()

	ended := make(chan error, 1)
	s.wg.Go(func() {
		err := receiveDatagrams(frames, conn)
		_ = conn.Close()
		ended <- err
	})

	err := s.sendDatagrams(conn, frames)
	switch {
	case errors.Is(err, io.EOF):
		return frames.sendBody(kindClose, nil)
	case errors.Is(err, net.ErrClosed): // by the receiver, or by the stream's end
		err = <-ended
	}
	var broken *connError
	if errors.As(err, &broken) {
		failure := failureBody{code: codeOf(broken.err), text: broken.err.Error()}
		return frames.sendBody(kindReset, failure.append(nil))
	}
	return err
}

// sendDatagrams sends what conn brings, each in a frame of its own size.
func (s *Server) sendDatagrams(conn net.Conn, frames *frameStream) error {
	from, ok := conn.(DatagramReader)
	if !ok {
		from = &socketReader{conn: conn}
	}
	for {
		p, err := from.ReadDatagram()
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return err
		default:
			return &connError{err}
		}
		b := s.buffers.get(frameHeader + len(p))
		copy((*b)[frameHeader:], p)
		if err := frames.send(kindData, b); err != nil {
			return err
		}
	}
}

// receiveDatagrams writes to conn what the stream brings. It returns nil where the laptop
// has ended the flow.
func receiveDatagrams(frames *frameStream, conn net.Conn) error {
	scratch := make([]byte, 0, smallFrame)
	for {
		var m inFrame
		if err := frames.recv(&m); err != nil {
			return badFrame(err)
		}
		switch m.kind {
		case kindData:
			p, err := datagram(&m, &scratch)
			if err == nil {
				_, err = conn.Write(p)
			}
			m.free()
			if err != nil && !isDatagramLoss(err) {
				return &connError{err}
			}
		case kindClose, kindReset:
			m.free()
			return nil
		default:
			m.free()
			return badFrame(fmt.Errorf("%w: %s", errFrameUnexpected, m.kind))
		}
	}
}

// datagram returns a frame's body in one piece: where it arrived, or in scratch.
func datagram(m *inFrame, scratch *[]byte) ([]byte, error) {
	if m.bodyLen == 0 {
		return nil, nil
	}
	views, err := m.body.Peek(m.bodyLen, nil)
	if err != nil {
		return nil, err
	}
	if len(views) == 1 {
		return views[0], nil
	}
	*scratch = (*scratch)[:0]
	for _, v := range views {
		*scratch = append(*scratch, v...)
	}
	return *scratch, nil
}
